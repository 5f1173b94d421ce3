"""From profile, file and words to settings, with errors that name the nearest.

The order of precedence is: command line, notebook parameters, YAML file, profile,
default. A profile is data: no other module asks which one is in force.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from nbutils.core.errors import LabError, known, nearest
from nbutils.core.fields import PLACES, SECTIONS, Settings, field_of, nested
from nbutils.core.profiles import PROFILES, STUDENTS
from nbutils.core.sections import FAMILIES, Section

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"


def flat_name(name: Any) -> str:
    """The flat name of a setting that is given flat, as section.name or as its name.

    `llm_mode`, `llm.mode` and `mode` are one; a bare name must be unique. The profile
    is no setting.
    """
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
    profile: str = "workshop",
    overrides: dict[str, Any] | None = None,
    *,
    config: str | Path | None = None,
) -> Settings:
    """Settings of a profile, changed by a YAML file, then by `overrides`.

    Raises LabError for an unknown profile, an unknown name (naming the nearest
    setting or family) or a value of the wrong type: the string "false" is not a
    boolean.
    """
    known("profile", profile, PROFILES)
    given = {**(read_config(config) if config else {}), **(overrides or {})}
    values = {flat_name(name): value for name, value in given.items()}
    values = {**PROFILES[profile], **values, "profile": profile}
    student = values.get("student", field_of("student").default)
    values = {**STUDENTS.get(student, {}), **values}
    try:
        settings = Settings(**nested(values))
    except ValidationError as error:
        first = error.errors()[0]
        section, *leaf = first["loc"]
        place = (section, leaf[0]) if section in SECTIONS else ("", section)
        name = next(flat for flat, where in PLACES.items() if where == place)
        raise _refusal(name, first["input"], first["msg"]) from None
    for family in settings.synthesis.families:
        known("family", family, FAMILIES)
    for name, value in settings.flat().items():
        twice = [v for v in value if value.count(v) > 1] if type(value) is list else []
        if twice:
            raise LabError(f"setting {name!r} holds {twice[0]!r} twice: name it once")
    return settings


def read_config(path: str | Path) -> dict[str, Any]:
    """A YAML file of settings, by flat name. LabError if missing or no mapping.

    A section may be a mapping of its own. YAML reads `2e-4` as a text; where a setting
    is a number, so is its value here.
    """
    path = Path(path)
    if not path.is_file():
        raise LabError(f"settings file {path} does not exist")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = " ".join(str(error).split())
        raise LabError(f"settings file {path} is not valid YAML: {cause}") from None
    if not isinstance(values, dict):
        raise LabError(f"settings file {path} must hold 'name: value' lines")
    found = {}
    for name, value in values.items():
        whole = isinstance(value, dict)  # a section: no setting is a mapping
        for leaf, own in value.items() if whole else [(name, value)]:
            flat = flat_name(f"{name}.{leaf}" if whole else name)
            if field_of(flat).annotation is float and isinstance(own, str):
                with suppress(ValueError):  # refused when it is resolved
                    own = float(own)
            found[flat] = own
    return found


def parse_assignment(text: str) -> tuple[str, Any]:
    """`name=value` of the command line as (flat name, typed value).

    The value is read as the setting's type: `bidirectional=false` is the boolean.
    """
    name, equals, raw = text.partition("=")
    if not equals:
        raise LabError(f"{text!r} is not of the form name=value")
    name = flat_name(name)
    field = field_of(name)
    try:
        value = raw if field.annotation is str else yaml.safe_load(raw)
    except yaml.YAMLError:
        value = raw
    finite = ConfigDict(allow_inf_nan=False)
    adapter = TypeAdapter(Annotated[field.annotation, field], config=finite)
    try:
        return name, adapter.validate_python(value, strict=False)
    except ValidationError as error:
        raise _refusal(name, raw, error.errors()[0]["msg"]) from None


def changed(section: Section, **changes: Any) -> Section:
    """A section but for some of its settings; LabError as `resolve` has it."""
    for name in changes:
        known("setting", name, type(section).model_fields)
    try:
        return type(section)(**{**dict(section), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        raise _refusal(first["loc"][0], first["input"], first["msg"]) from None


def _refusal(name: str, value: Any, reason: str) -> LabError:
    reason = reason.removeprefix("Value error, ")
    return LabError(f"setting {name!r} cannot be {value!r}: {reason}")


def table() -> list[dict[str, Any]]:
    """One row per setting: name, default, each profile's value, unit, source, text."""
    rows, values = [], {profile: resolve(profile).flat() for profile in PROFILES}
    for name, (section, _) in PLACES.items():
        field = field_of(name)
        own = {profile: flat[name] for profile, flat in values.items()}
        text = " ".join(field.description.split())
        row = {"section": section or "all", "name": name, **field.json_schema_extra}
        rows.append({**row, **own, "text": text})
    return rows
