"""Settings: one typed class per job, the only place for defaults.

File, environment and flags override them in this order.

A job's own settings are in its section (`clean: {session_gap_minutes: 30}`, `CARTWHEEL_CLEAN__SESSION_GAP_MINUTES=30`,
`--clean.session-gap-minutes 30`); settings shared by all jobs are in `lake`, `log`, `time`, `privacy`, `cluster`,
`kubernetes` and `live`.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from lib.formats.mapping import load_mapping, text_of
from lib.pipeline import JOBS
from lib.runs.errors import EXIT_CODES, ExitCode, SettingError, ending_of
from lib.runs.logs import say_error

ENVIRONMENT_PREFIX = "CARTWHEEL_"


class Section(BaseModel):
    """A group of settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def hidden_credentials(address: str) -> str:
    """An address without what stands before its host."""
    return re.sub(r"//[^/]*@", "//...@", address)


def lake_place(path: str) -> str:
    """The lake's path as given, if it is a folder, or an address of an object store, that every engine reads.

    Raises:
        ValueError: it is another address, or holds characters that an engine reads otherwise.
    """
    if not path.strip():
        raise ValueError("should be a folder or s3://bucket/folder; nothing was given")
    address = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", path)
    if address and address[1] != "s3":
        hint = (
            "give the folder's path itself" if address[1].lower() == "file" else "mount the store and give its folder"
        )
        raise ValueError(f"should be a folder or s3://bucket/folder, not another address; {hint}")
    if address and "@" in path:
        raise ValueError(
            "should hold no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )
    if address and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.=-]+)+/?", path):
        raise ValueError("should be s3://bucket/folder, of letters, digits and _.=- in the folder's names")
    whole = path if address else str(Path(path).expanduser().absolute())
    unread = re.search(r"%[0-9A-Fa-f]{2}|[\\#?\x00-\x1f\x7f\ud800-\udfff]", whole)
    if unread:
        where = "" if unread[0] in path else f" (it is in {whole})"
        raise ValueError(
            f"should not hold {unread[0]!r}, which Delta's readers take for another character{where}; rename it"
        )
    return path


class LakeSettings(Section):
    """Where tables and files are stored."""

    path: str = Field(
        "lake",
        min_length=1,
        description="folder of the lake, on a file system that every node mounts, or s3://bucket/folder on an object store; "
        "one lake holds one shop. A store's keys, endpoint and region come from the environment (AWS_ACCESS_KEY_ID ...)",
    )

    @field_validator("path")
    @classmethod
    def is_a_place(cls, value: str) -> str:
        return lake_place(value)


class LogSettings(Section):
    """Where the raw log is and how to read it."""

    path: str | None = Field(
        None,
        min_length=1,
        description="file or folder of raw logs, or the address of one such as s3://bucket/logs; unset: the simulator's, "
        "`<lake>/raw/market`",
    )
    format: str = Field("market", description="name of a shipped mapping, or path of your own mapping file")

    @field_validator("path")
    @classmethod
    def of_its_owner(cls, value: str | None) -> str | None:
        return str(Path(value).expanduser()) if value is not None and value.startswith("~") else value


@dataclass(frozen=True)
class DateRange:
    """UTC dates, both ends included."""

    first: date
    last: date

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last

    def __str__(self) -> str:
        return f"{self.first} to {self.last}"


class TimeSettings(Section):
    """The time up to which derived rows use the log, and the days that a backfill makes anew."""

    as_of: str = Field(
        "test_from",
        description="`test_from` or `valid_from` (for scoring), `end` (for production) or an ISO time with a zone",
    )

    from_date: date | None = Field(
        None,
        exclude=True,
        description="first UTC date that clean and featurize make anew, whatever is new; the rest stays as it is. Needs to_date",
    )
    to_date: date | None = Field(
        None, exclude=True, validate_default=True, description="last such date, itself included; needs from_date"
    )

    @property
    def days(self) -> DateRange | None:
        """The days to be made anew; None in a run of all days."""
        return DateRange(self.from_date, self.to_date) if self.from_date and self.to_date else None

    @field_validator("from_date", "to_date", mode="before")
    @classmethod
    def is_a_date(cls, value: Any) -> Any:
        # A number would be taken for a time.
        if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            raise ValueError("should be a date such as 2011-11-01")
        return value

    @field_validator("to_date")
    @classmethod
    def ends_a_range(cls, value: date | None, info: ValidationInfo) -> date | None:
        first = info.data.get("from_date", value)
        if (first is None) != (value is None):
            raise ValueError("from_date and to_date are given together, or neither")
        if first is not None and value is not None and value < first:
            raise ValueError(f"should not be before from_date, {first}")
        return value

    @field_validator("as_of")
    @classmethod
    def is_a_moment(cls, value: str) -> str:
        if value in ("test_from", "valid_from", "end"):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise ValueError(
                "should be test_from, valid_from, end or an ISO time with a zone, such as 2011-11-09T00:00:00Z"
            )
        return moment.astimezone(UTC).isoformat()


class PrivacySettings(Section):
    """The key of the pseudonyms. Its value is never a setting: it comes from a file or an environment variable."""

    key_file: str | None = Field(
        None,
        description="file with the pseudonym key; unset on one machine: `<lake>.key`, created once with mode 0600, "
        "or for a lake in a checkout `~/.config/cartwheel/keys/<lake>-<hash of its path>.key`, since a checkout is "
        "committed and shipped",
    )
    key_variable: str | None = Field(None, description="name of the environment variable that holds the key instead")
    create_key: bool = Field(
        True, description="create the key file if it is missing; false on a cluster, where one key is shared"
    )


class ClusterSettings(Section):
    """How large the Ray and Spark jobs run, and where."""

    num_workers: int = Field(2, ge=1, le=4096, description="training workers")
    cpus_per_worker: float = Field(0.5, gt=0, le=256, description="logical CPUs per training worker")
    use_gpu: bool = Field(False, description="one GPU per training worker; NCCL and bf16 instead of gloo and fp32")
    ray_address: str | None = Field(
        None, description="Ray's job server, such as http://head:8265; unset: a Ray of this machine"
    )
    spark_master: str = Field(
        "local[2]",
        description="Spark master of jobs that spark-submit does not start. `local[N]` gives the tasks of simulate, "
        "ingest, clean and featurize to N processes of this machine without Spark; `local[N,1]` gives them to Spark there",
    )
    driver_memory: str = Field("6g", pattern=r"^\d+[mg]$", description="heap of the Spark driver on one machine")


KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


class KubernetesSettings(Section):
    """How jobs run on Kubernetes. Their sizes stand in lib/pipeline.py; a small cluster gives a part of them."""

    context: str | None = Field(None, description="context of the kubeconfig; unset: its current one")
    namespace: KubernetesName = Field("cartwheel", description="namespace of the jobs, made by conf/kubernetes")
    spark_image: str = Field("cartwheel-spark:latest", description="image of Spark jobs and of those without an engine")
    ray_image: str = Field("cartwheel-ray:latest", description="image of Ray jobs")
    secrets: tuple[KubernetesName, ...] = Field(
        ("cartwheel",), description="Secrets whose keys become variables of the pods: the pseudonym key, a store's keys"
    )
    config_map: KubernetesName = Field(
        "cartwheel-settings", description="ConfigMap with `settings.yaml`, which every job reads before its flags"
    )
    queue: KubernetesName | None = Field(None, description="LocalQueue of Kueue; unset: pods start where there is room")
    priority: KubernetesName | None = Field(None, description="WorkloadPriorityClass of Kueue")
    cpu_frac: float = Field(1.0, gt=0, le=4, description="part of a job's declared cores that its pods ask for")
    memory_frac: float = Field(1.0, gt=0, le=4, description="part of a job's declared memory that its pods ask for")
    num_workers: int | None = Field(
        None, ge=1, le=4096, description="most executors, or training workers; unset: as many as are declared"
    )
    use_gpus: bool = Field(True, description="false: training workers get no GPU, on a cluster that has none")
    node_selector: dict[str, str] = Field({}, description="labels of the nodes of all pods")
    gpu_node_selector: dict[str, str] = Field({}, description="labels of the nodes of pods with a GPU, beside these")
    gpu_resource: str = Field("nvidia.com/gpu", description="what a GPU is called, as a resource and as a taint")
    event_log: str | None = Field(
        None, pattern=r"^s3a?://", description="address of Spark's event logs, such as s3://bucket/events; unset: none"
    )


class LiveSettings(Section):
    """The live log, and the online state that the server answers from."""

    kafka: str | None = Field(
        None,
        min_length=1,
        description="Kafka's bootstrap servers, such as kafka:9092; unset: the live log is files in the log folder",
    )
    kafka_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how Kafka is spoken to: SSL over TLS, SASL with a user and a password"
    )
    kafka_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="how the password is proven where kafka_protocol begins with SASL"
    )
    kafka_user: str | None = Field(
        None,
        validate_default=True,
        pattern=r'^[^\s"\\]+$',
        description="user, whose password is in the variable CARTWHEEL_KAFKA_PASSWORD, on every machine that runs a part",
    )
    kafka_ca: str | None = Field(
        None,
        min_length=1,
        description="PEM file of the authorities that may have signed the brokers' certificates, at the same path on every "
        "machine; unset: those that the machine trusts",
    )
    kafka_certificate: str | None = Field(
        None,
        min_length=1,
        description="PEM file of the client's own certificate, its chain and its private key (PKCS 8, not encrypted), where the "
        "brokers want one",
    )
    topic_prefix: str = Field(
        "cartwheel.",
        pattern=r"^[A-Za-z0-9._-]{0,100}$",
        description="the records of a source of the mapping are in the topic of this prefix and its name",
    )
    state: str | None = Field(
        None,
        min_length=1,
        description="where the online state is: redis://host:6379/0, rediss:// over TLS (its password is in the variable "
        "CARTWHEEL_REDIS_PASSWORD), or a file of SQLite on one machine; unset: `<lake>/online.sqlite`",
    )
    events_kept: int = Field(200, ge=1, le=10_000, description="latest events of a user that the online state keeps")
    days_kept: float = Field(30, gt=0, le=3660, description="days after which it forgets a user who does nothing")
    state_timeout_ms: int = Field(
        100, ge=1, le=60_000, description="after so many milliseconds without an answer the state counts as lost"
    )

    def topic_of(self, source: str) -> str:
        """The topic of the live log that holds the records of a source of the mapping."""
        return f"{self.topic_prefix}{source}"

    @field_validator("kafka_user")
    @classmethod
    def is_needed_by_the_protocol(cls, value: str | None, info: ValidationInfo) -> str | None:
        protocol = info.data.get("kafka_protocol", "")
        if value is None and protocol.startswith("SASL"):
            raise ValueError(f"kafka_protocol {protocol} needs a user")
        if value is not None and not protocol.startswith("SASL"):
            raise ValueError("a user needs kafka_protocol SASL_SSL, or SASL_PLAINTEXT")
        return value

    @field_validator("kafka_ca", "kafka_certificate")
    @classmethod
    def is_for_tls(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not info.data.get("kafka_protocol", "SSL").endswith("SSL"):
            raise ValueError("certificates need kafka_protocol SSL or SASL_SSL")
        return value

    @field_validator("state")
    @classmethod
    def holds_no_password(cls, value: str | None) -> str | None:
        if value is not None and "@" in value:
            raise ValueError("should hold no credentials; set CARTWHEEL_REDIS_PASSWORD in the environment")
        return value


SHARED_SECTIONS: dict[str, type[Section]] = {
    "lake": LakeSettings,
    "log": LogSettings,
    "time": TimeSettings,
    "privacy": PrivacySettings,
    "cluster": ClusterSettings,
    "kubernetes": KubernetesSettings,
    "live": LiveSettings,
}
# Sections that say where a run happens, not what it computes: moving a lake or resizing a cluster makes nothing stale.
NOT_HASHED = ("lake", "log", "privacy", "cluster", "kubernetes", "live")


class JobSettings(BaseModel):
    """Base class of every job's settings: the shared sections. A job's class adds its own fields.

    The class of the job `train_gan` is `TrainGanSettings`; its section is `train_gan`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    job: ClassVar[str] = ""

    lake: LakeSettings = LakeSettings()
    log: LogSettings = LogSettings()
    time: TimeSettings = TimeSettings()
    privacy: PrivacySettings = PrivacySettings()
    cluster: ClusterSettings = ClusterSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    live: LiveSettings = LiveSettings()
    _arguments: tuple[str, ...] = PrivateAttr(())  # that it was read from

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.job = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Settings")).lower()

    @classmethod
    def own_fields(cls) -> dict[str, Any]:
        """The job's own fields, without the shared sections: name -> pydantic FieldInfo."""
        return {name: field for name, field in cls.model_fields.items() if name not in SHARED_SECTIONS}

    @classmethod
    def from_command_line(cls, arguments: list[str] | None = None) -> Self:
        """Read `--config FILE`, the environment and flags; on a wrong setting print one line and exit with code 2.

        A job's command calls this first: from then on it ends on an error with one line and the error's exit code.
        """
        sys.excepthook = partial(_end_in_one_line, cls.job)
        arguments = sys.argv[1:] if arguments is None else arguments
        try:
            return cls.load(arguments)
        except ValueError as error:
            say_error(cls.job, SettingError(f"{cls.job}: {error}"))
            raise SystemExit(ExitCode.WRONG_SETTING) from None

    @classmethod
    def load(cls, arguments: list[str]) -> Self:
        """Read the settings as `read` does, and check the mapping that they name.

        Raises:
            ValueError: as `read`, or the mapping is missing or wrong.
        """
        settings = cls.read(arguments)
        if not JOBS[cls.job].makes_log:
            load_mapping(settings.log.format)
        return settings

    @classmethod
    def read(cls, arguments: list[str]) -> Self:
        """Read the settings from `arguments`, the environment and the file that `arguments` names.

        Raises:
            ValueError: an unknown key or an invalid value; one line names the key, the value and what is allowed.
        """
        runs = JOBS[cls.job].runs if cls.job in JOBS else ()
        config_file, flags = _split_config(_without_sections(arguments, runs))
        _refuse_unknown_variables()
        with _errors_in_one_line(cls):
            given = _document_class(cls)(_file_values=_sections_of(cls.job, config_file), _flags=flags)
            shared = {section: getattr(given, section) for section in SHARED_SECTIONS}
            shared["lake"] = dict(shared["lake"])  # a default is checked too: its folder depends on where the job runs
            settings = cls(**shared, **dict(getattr(given, cls.job)))
        settings._arguments = (*arguments,)
        return settings

    def of_job(self, kind: "type[J]") -> "J":
        """The settings of a job that this one runs: the shared ones of this, its own of the same flags, environment and file.

        Raises:
            ValueError: as `read`.
        """
        others = (self.job, *JOBS[self.job].runs)
        own = kind.read(_without_sections(self._arguments, [name for name in others if name != kind.job]))
        return own.model_copy(update={section: getattr(self, section) for section in SHARED_SECTIONS})

    def hash(self) -> str:
        """Hash of the settings that affect the job's result: its own and the time."""
        content = self.model_dump(mode="json", exclude=set(NOT_HASHED))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


S = TypeVar("S", bound=Section)
J = TypeVar("J", bound=JobSettings)


def by_section(arguments: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each argument with its section: of a flag `--section.key` that, of a value its flag's, and '' before the first flag."""
    section = ""
    for argument in arguments:
        if argument.startswith("--"):
            section = argument[2:].partition("=")[0].partition(".")[0].replace("-", "_")
        yield section, argument


def _without_sections(arguments: Sequence[str], sections: Collection[str]) -> list[str]:
    """The arguments but the flags of some sections, with their values."""
    return [argument for section, argument in by_section(arguments) if section not in sections]


def shared_settings(section: type[S], arguments: list[str]) -> S:
    """One shared section of `arguments`, the environment and the file that `arguments` names, for commands of no job.

    Raises:
        ValueError: an unknown key or an invalid value.
    """
    (own,) = (name for name, kind in SHARED_SECTIONS.items() if kind is section)
    config_file, flags = _split_config(arguments)
    sections = {name: values for name, values in _sections_of("", config_file).items() if name == own}
    fields: dict[str, Any] = {own: (section, section())}
    document: type[_Document] = create_model("Document", __base__=_Document, **fields)
    with _errors_in_one_line(JobSettings):
        given: S = getattr(document(_file_values=sections, _flags=flags), own)
    return given


def kubernetes_settings(arguments: list[str]) -> KubernetesSettings:
    """The section `kubernetes`, as `shared_settings` reads it."""
    return shared_settings(KubernetesSettings, arguments)


def flags_of(job: str, arguments: Sequence[str]) -> list[str]:
    """Flags that say the same as `arguments` where the file that these name is not: what it gives a job comes first.

    The section `kubernetes` is left out, for it says where a job runs and is no matter of the job's.
    """
    config_file, flags = _split_config([*arguments])
    sections: dict[str, Any] = {}
    for name in (job, *JOBS[job].runs):
        sections |= _sections_of(name, config_file)
    of_file = [
        f"--{section}.{key}".replace("_", "-")
        + f"={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for section, values in sections.items()
        for key, value in values.items()
        if section != "kubernetes"
    ]
    return [*of_file, *_without_sections(flags, ["kubernetes"])]


class _Document(BaseSettings):
    """The sections that one job reads, from a file, the environment and flags."""

    model_config = SettingsConfigDict(
        extra="forbid",
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
    )

    def __init__(self, _file_values: dict[str, Any], _flags: list[str]) -> None:
        super().__init__(_cli_parse_args=_flags, **_file_values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file; the flags' source is put first by pydantic-settings itself."""
        return env_settings, init_settings


@cache
def _document_class(settings: type[JobSettings]) -> type[_Document]:
    own: dict[str, Any] = {name: (field.annotation, field) for name, field in settings.own_fields().items()}
    section = create_model(f"{settings.__name__}Section", __base__=Section, __doc__=settings.__doc__, **own)
    sections: dict[str, Any] = {name: (kind, kind()) for name, kind in SHARED_SECTIONS.items()}
    sections[settings.job] = (section, section())
    does = f"{settings.__doc__} Settings also come from a file, --config FILE, and the environment. {EXIT_CODES}"
    document: type[_Document] = create_model("Document", __base__=_Document, __doc__=does, **sections)
    document.model_config["cli_prog_name"] = settings.job
    return document


def _split_config(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` out of the arguments.

    `--as-of` is short for `--time.as-of`, as are the dates of a range, and sections may be snake_case.
    """
    config_file: Path | None = None
    flags: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name == "--config":
            value = value if equals else next(rest, "")
            config_file = Path(value)
            if not value or not config_file.is_file():
                what = "a folder, not a file" if value and config_file.is_dir() else "no such file"
                raise ValueError(f"--config {value or '(nothing)'}: {what}")
        elif name in ("--as-of", "--from-date", "--to-date"):
            flags.append(f"--time.{name[2:]}{equals}{value}")
        else:
            flags.append(name.replace("_", "-") + equals + value if name.startswith("--") else argument)
    return config_file, flags


def _sections_of(job: str, config_file: Path | None) -> dict[str, Any]:
    """The sections of the file that apply to one job; a section of an unknown name is an error."""
    if config_file is None:
        return {}
    try:
        content = yaml.safe_load(text_of(config_file)) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{config_file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{config_file}: expected sections such as `lake:` or `{job}:`, found {content!r}")
    known = (*SHARED_SECTIONS, *JOBS)
    for name in content:
        if name not in known:
            raise ValueError(f"{config_file}: no job or section is named {name!r}; known are {', '.join(known)}")
    return {name: values or {} for name, values in content.items() if name in SHARED_SECTIONS or name == job}


def _refuse_unknown_variables() -> None:
    """Refuse a misspelt section in a variable's name, which pydantic-settings would silently ignore."""
    for variable in os.environ:
        section, separator, _ = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if variable.startswith(ENVIRONMENT_PREFIX) and separator and section not in (*SHARED_SECTIONS, *JOBS):
            known = ", ".join((*SHARED_SECTIONS, *JOBS))
            raise ValueError(f"{variable}: no job or section is named {section!r}; known are {known}")


@contextmanager
def _errors_in_one_line(settings: type[JobSettings]) -> Iterator[None]:
    """Say in one line what is wrong with what was given.

    Raises:
        ValueError: something is.
    """
    try:
        yield
    except ValidationError as error:
        raise ValueError(_in_one_line(error, settings)) from None
    except SettingsError as error:
        raise ValueError(f"{str(error).removeprefix('error parsing CLI: ')}; `--help` lists what is known") from None


def _in_one_line(error: ValidationError, settings: type[JobSettings]) -> str:
    """The first of pydantic's complaints as one line: which key, what was given, what is allowed."""
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        section = str(first["loc"][0])
        fields = SHARED_SECTIONS[section].model_fields if section in SHARED_SECTIONS else settings.own_fields()
        return f"unknown setting {location}; known in {section!r} are {', '.join(fields)}{more}"
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{location} = {hidden_credentials(repr(first['input']))}: {expected}{more}"


def _end_in_one_line(job: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End a job's process with one line for its user and the exit code of the error."""
    say_error(job, error)
    raise SystemExit(ending_of(error).code)
