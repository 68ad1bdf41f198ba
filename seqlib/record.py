"""Spec: what a run is. Record: what it gave. Both are JSON; a record carries its checksum."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from seqlib import devices
from seqlib.errors import nearest

SCHEMA_VERSION = 1


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False,
                      allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def name_in(arms: Mapping[str, Any]) -> Any:
    """The type of a spec's field `arm`: a name in `arms`, which may get more of them later."""
    def check(name: str) -> str:
        if name not in arms:
            raise nearest("arm", name, arms)
        return name

    return Annotated[str, AfterValidator(check)]


def later(default: Any, **more: Any) -> Any:
    """A field that a spec got when it had records already: not part of its JSON where it has its
    default, so that those keep their keys."""
    return Field(default, exclude_if=lambda value: value == default, **more)


class Spec(BaseModel):
    """Every setting that changes a result. A study adds fields to it; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    study: str
    arm: str
    seed: int = Field(0, ge=0, lt=2**31)
    device: Annotated[Literal[devices.KINDS], BeforeValidator(devices.kind)] = later("cpu")

    @model_validator(mode="before")
    @classmethod
    def no_negative_zero(cls, values: Any) -> Any:
        """-0.0 as 0.0: they are equal, and would have two keys."""
        return {name: value + 0.0 if isinstance(value, float) else value
                for name, value in values.items()} if isinstance(values, dict) else values

    @property
    def key(self) -> str:
        """The identity of the run: `digest` of all fields."""
        return digest(self.model_dump(mode="json"))


def tidy(value: Any) -> Any:
    """Numbers as a record keeps them: six significant digits, None for what is not finite."""
    if isinstance(value, dict):
        return {k: tidy(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [tidy(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


class Record(BaseModel):
    """One finished run. Metrics are scalars with units in their names; curves are lists of numbers,
    or of the samples that a language model wrote."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = SCHEMA_VERSION
    spec: dict[str, Any]
    key: str
    metrics: dict[str, float | int | None]
    curves: dict[str, list]
    provenance: dict[str, Any]
    checksum: str = ""

    @classmethod
    def of(cls, spec: Spec, metrics: dict, curves: dict, provenance: dict) -> "Record":
        """The record of a finished run, with tidy numbers and its checksum."""
        record = cls(spec=spec.model_dump(mode="json"), key=spec.key, metrics=tidy(metrics),
                     curves=tidy(curves), provenance=provenance)
        record.checksum = record.expected_checksum()
        return record

    def expected_checksum(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"checksum"}))

    def problem(self) -> str | None:
        """Why this record cannot be trusted, or None."""
        if self.checksum != self.expected_checksum():
            return "checksum does not match its content"
        return None if self.key == digest(self.spec) else "key does not match its spec"
