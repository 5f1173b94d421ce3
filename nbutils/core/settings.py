"""Profiles: every setting of the lab with its unit, its default and where it is from.

A profile is data. No other module asks which profile is in force; they read settings.
The order of precedence is: command line, notebook parameters, YAML file, profile,
default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from nbutils.core.errors import LabError, nearest
from nbutils.core.fields import FAMILIES, Settings
from nbutils.core.profiles import PROFILES

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"


def _check_name(name: Any, kind: type[BaseModel] = Settings) -> None:
    if name == "profile":
        raise LabError(
            "the profile is chosen with --profile (or the parameter `profile`), "
            "not as a setting"
        )
    if name not in kind.model_fields:
        near = nearest(name, kind.model_fields)
        raise LabError(f"unknown setting {name!r}{near}")


def resolve(
    profile: str = "workshop",
    overrides: dict[str, Any] | None = None,
    *,
    config: str | Path | None = None,
) -> Settings:
    """Settings of a profile, changed by a YAML file, then by `overrides`.

    Raises LabError for an unknown profile, an unknown name (naming the nearest
    setting or family) or a value of the wrong type: the string "false" is not a
    boolean. The profile itself is no setting.
    """
    if profile not in PROFILES:
        raise LabError(
            f"unknown profile {profile!r}{nearest(profile, PROFILES)} "
            f"(known: {', '.join(PROFILES)})"
        )
    values = {
        **PROFILES[profile],
        **(read_config(config) if config else {}),
        **(overrides or {}),
    }
    for name in values:
        _check_name(name)
    try:
        settings = Settings(**{**values, "profile": profile})
    except ValidationError as error:
        raise LabError(_one_line(error)) from None
    _check_lists(settings)
    return settings


def _check_lists(settings: Settings) -> None:
    for family in settings.families:
        if family not in FAMILIES:
            raise LabError(
                f"unknown family {family!r}{nearest(family, FAMILIES)} "
                f"(known: {', '.join(FAMILIES)})"
            )
    for name in ("families", "languages", "teachers", "tasks"):
        values = getattr(settings, name)
        twice = next((v for v in values if values.count(v) > 1), None)
        if twice is not None:
            raise LabError(f"setting {name!r} holds {twice!r} twice: name it once")


def read_config(path: str | Path) -> dict[str, Any]:
    """A YAML file of settings as a dict. LabError if it is missing or is no mapping.

    YAML reads `2e-4` as a text; where a setting is a number, so is its value here.
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
    return {name: _as_number(name, value) for name, value in values.items()}


def _as_number(name: Any, value: Any) -> Any:
    field = Settings.model_fields.get(name)
    if field is None or field.annotation is not float or not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value  # refused with the setting's name when it is resolved


def parse_assignment(text: str, kind: type[BaseModel] = Settings) -> tuple[str, Any]:
    """`name=value` of the command line as (name, typed value), a setting of `kind`.

    The value is read as the setting's type: `bidirectional=false` is the boolean.
    """
    name, equals, raw = text.partition("=")
    if not equals:
        raise LabError(f"{text!r} is not of the form name=value")
    _check_name(name, kind)
    field = kind.model_fields[name]
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        value = raw
    finite = ConfigDict(allow_inf_nan=False)
    adapter = TypeAdapter(Annotated[field.annotation, field], config=finite)
    if field.annotation is str:
        value = raw
    try:
        return name, adapter.validate_python(value, strict=False)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise LabError(f"setting {name!r} cannot be {raw!r}: {problem}") from None


def table() -> list[dict[str, Any]]:
    """One row per setting: name, default, each profile's value, unit, source, text."""
    rows = []
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        row = {"name": name, "unit": extra["unit"], "source": extra["source"]}
        for profile, values in PROFILES.items():
            row[profile] = (
                profile if name == "profile" else values.get(name, field.default)
            )
        rows.append({**row, "text": field.description})
    return rows


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    return f"setting {name!r} cannot be {first['input']!r}: {first['msg']}"
