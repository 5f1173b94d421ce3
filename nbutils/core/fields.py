"""All settings. Each has a place (`settings.mining.perc`) and a flat name (`perc`)."""

from typing import Any, Literal, Self

from nbutils.core import sections as rooms
from nbutils.core.sections import Section, opt


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
