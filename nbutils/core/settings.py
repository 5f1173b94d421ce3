"""All settings, and the way to them from profile, file and words.

Each has a place (`settings.mining.perc`) and a flat name (`perc`). Command line and
notebook parameters go before a YAML file, then profile, then default.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import ValidationError

from nbutils.core import sections as rooms
from nbutils.core.errors import LabError, known, nearest
from nbutils.core.profiles import PROFILES, STUDENTS
from nbutils.core.sections import FAMILIES, Section, opt

NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"


class Settings(Section):
    """Every setting: what all rooms share, then one section a room."""

    profile: str = opt("workshop")
    """name of the profile these settings began from"""
    seed: int = opt(0, ge=0)
    """seed of every random draw"""
    device: Literal["auto", "cpu", "cuda"] = opt("auto")
    """where models run"""
    min_memory_gb: float = opt(4.0, unit="GB", ge=0)
    """free memory without which a run is refused"""
    llm: rooms.LLM = rooms.LLM()
    synthesis: rooms.Synthesis = rooms.Synthesis()
    encoder: rooms.Encoder = rooms.Encoder()
    mining: rooms.Mining = rooms.Mining()
    training: rooms.Training = rooms.Training()
    evaluation: rooms.Evaluation = rooms.Evaluation()

    def flat(self) -> dict[str, Any]:
        """Flat name to value, as it is written into files."""
        return {
            name: getattr(getattr(self, section) if section else self, leaf)
            for name, (section, leaf) in PLACES.items()
        }

    def changed(self, **changes: Any) -> Self:
        """The same but for some settings, by flat name; KeyError for an unknown one."""
        return Settings(**nested({**self.flat(), **changes}))


SECTIONS = {
    name: type(field.default)
    for name, field in Settings.model_fields.items()
    if isinstance(field.default, Section)
}
PLACES = {name: ("", name) for name in Settings.model_fields if name not in SECTIONS}
"""Flat name to (section, name in it); the section of what all rooms share is ""."""
for _section, _kind in SECTIONS.items():
    PLACES |= {_kind.prefix + leaf: (_section, leaf) for leaf in _kind.model_fields}


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Values by flat name as `Settings` takes them, by section."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        section, leaf = PLACES[name]
        (made.setdefault(section, {}) if section else made)[leaf] = value
    return made


def field_of(name: str):
    """The field of a setting by its flat name."""
    section, leaf = PLACES[name]
    return SECTIONS.get(section, Settings).model_fields[leaf]


def flat_name(name: Any) -> str:
    """The flat name of `llm_mode`, `llm.mode` or, where that is unique, `mode`."""
    if name == "profile":
        raise LabError(
            "the profile is chosen with --profile (or the parameter `profile`), "
            "not as a setting"
        )
    if name in PLACES:
        return name
    alike = [flat for flat, place in PLACES.items() if ".".join(place) == name]
    alike = alike or [flat for flat, (_, leaf) in PLACES.items() if leaf == name]
    if len(alike) != 1:
        raise LabError(f"unknown setting {name!r}{nearest(name, PLACES)}")
    return alike[0]


def resolve(
    profile: str = "workshop", overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Settings of a profile, changed by `overrides`.

    LabError for an unknown profile, setting or family (naming the nearest) and for a
    value of the wrong type: the string "false" is not a boolean.
    """
    known("profile", profile, PROFILES)
    overrides = overrides or {}
    if not isinstance(overrides, Mapping):
        raise LabError(
            f"overrides must be a mapping such as {{'seed': 1}}, not {overrides!r}; "
            "papermill hands one over with -y '{overrides: {seed: 1}}', not with -p"
        )
    values = {flat_name(name): value for name, value in overrides.items()}
    values = {**PROFILES[profile], **values, "profile": profile}
    student = str(values.get("student", field_of("student").default))
    try:
        settings = Settings(**nested({**STUDENTS.get(student, {}), **values}))
    except ValidationError as error:
        place = error.errors()[0]["loc"]
        here = (place[:2], ("", place[0]))
        name = next(name for name, own in PLACES.items() if own in here)
        raise _refusal(name, error) from None
    for family in settings.synthesis.families:
        known("family", family, FAMILIES)
    for name, value in settings.flat().items():
        twice = [v for v in value if value.count(v) > 1] if type(value) is list else []
        if twice:
            raise LabError(f"setting {name!r} holds {twice[0]!r} twice: name it once")
    return settings


def read_config(path: str | Path) -> dict[str, Any]:
    """A YAML file of settings, by flat name; a section may be a mapping of its own.

    `2e-4`, for YAML a text, is the number it means.
    """
    if not Path(path).is_file():
        raise LabError(f"settings file {path} does not exist")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except NOT_YAML as error:
        cause = " ".join(str(error).split()).replace("'\\t'", "a tab, not spaces,")
        raise LabError(f"settings file {path} is not valid YAML: {cause}") from None
    if not isinstance(values, dict):
        raise LabError(f"settings file {path} must hold 'name: value' lines")
    found = {}
    for name, value in values.items():
        if value is None and name in SECTIONS:
            value = {}  # all its lines are comments
        whole = isinstance(value, dict)  # a section: no setting is a mapping
        for leaf, own in value.items() if whole else [(name, value)]:
            flat = flat_name(f"{name}.{leaf}" if whole else name)
            kind = field_of(flat).annotation
            if float in (kind, *get_args(kind)) and isinstance(own, str):
                with suppress(ValueError):  # refused when it is resolved
                    own = float(own)
            if flat in found:
                raise LabError(f"settings file {path} names {flat} twice")
            found[flat] = own
    return found


def parse_assignment(text: str) -> tuple[str, Any]:
    """`name=value` of the command line as (flat name, value of the setting's type)."""
    name, equals, raw = (part.strip() for part in text.partition("="))
    if not equals:
        raise LabError(
            f"{text!r} is not of the form name=value: write --set seed=1, no spaces"
        )
    name = flat_name(name)
    section, leaf = PLACES[name]
    value, kind = raw, field_of(name).annotation
    if kind is not str:
        with suppress(*NOT_YAML):  # refused as the text that it is
            value = yaml.safe_load(raw)
    if isinstance(value, bool) and kind is not bool:
        value = raw  # `true` is no number
    try:
        own = SECTIONS.get(section, Settings)
        return name, getattr(own.model_validate({leaf: value}, strict=False), leaf)
    except ValidationError as error:
        raise _refusal(name, error, raw) from None


def changed(section: Section, **changes: Any) -> Section:
    """A section but for some of its settings; LabError as of `resolve`."""
    for name in changes:
        known("setting", name, type(section).model_fields)
    try:
        return type(section)(**{**dict(section), **changes})
    except ValidationError as error:
        raise _refusal(section.prefix + error.errors()[0]["loc"][0], error) from None


def _refusal(name: str, error: ValidationError, value: Any = None) -> LabError:
    first = error.errors()[0]
    value = first["input"] if value is None else value
    reason = first["msg"].removeprefix("Value error, ")
    listed = get_origin(field_of(name).annotation) is list
    if listed and isinstance(value, str) and "[" not in value:
        reason += f", such as {name}=[{value}]"
    return LabError(f"setting {name!r} cannot be {value!r}: {reason}")


def table() -> list[dict[str, Any]]:
    """One row per setting: section, name, value by profile, unit, source, text."""
    rows, values = [], {profile: resolve(profile).flat() for profile in PROFILES}
    for name, (section, _) in PLACES.items():
        own = {profile: flat[name] for profile, flat in values.items()}
        row = {"section": section or "all", "name": name, **own}
        text = " ".join(field_of(name).description.split())
        rows.append({**row, **field_of(name).json_schema_extra, "text": text})
    return rows
