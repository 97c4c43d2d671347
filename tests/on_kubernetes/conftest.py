"""What the tests on a real cluster share: the node of `make cluster`, a bucket that its pods reach, and one who submits."""

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import yaml

from lib.lake.lake import Lake
from lib.pipeline import ROOT
from tests import object_store as stores
from tests.markets import SMALL_MARKET
from tests.on_kubernetes.times import Run, Times
from tests.one_node import cluster, network, node, programs
from tests.one_node.control_plane import kubeconfig, kubectl
from tests.one_node.operators import NAMESPACE

CARTWHEEL = str(Path(sys.executable).parent / "cartwheel")
KEY_VARIABLE, KEY = "CARTWHEEL_PSEUDONYM_KEY", "of-the-tests-and-of-nobody-else-0"
TOKENS_VARIABLE, TOKEN = "CARTWHEEL_SERVE_TOKENS", "of-the-tests-and-of-nobody-else-1"
STORE_PORT = 8333  # which the local overlay lets pods reach
LOG, EVENTS = "logs", "events"  # folders of the bucket
SETTINGS = ROOT / "conf" / "kubernetes" / "overlays" / "local" / "settings.yaml"
WAIT_SECONDS = 120


@dataclass
class Command:
    """A command of `cartwheel` that runs, and what it has said."""

    process: "subprocess.Popen[str]"
    begun: float = field(default_factory=time.time)
    said: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The submission's name, as soon as it is said."""
        return self.line_of("submitted ").removeprefix("submitted ").partition(";")[0]

    @property
    def output(self) -> str:
        """All of its lines."""
        return "\n".join(self.said)

    def line_of(self, start: str) -> str:
        """Its first line that starts so, as soon as it is said."""
        assert self.process.stdout is not None
        while not any(line.startswith(start) for line in self.said):
            line = self.process.stdout.readline()
            assert line, f"it ended: {self.output}"
            self.said.append(line.rstrip())
        return next(line for line in self.said if line.startswith(start))

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        assert self.process.stdout is not None
        self.said += [line.rstrip() for line in self.process.stdout]
        return self.process.wait()


@dataclass(frozen=True)
class Shop:
    """A namespace that takes jobs, and its bucket."""

    store: stores.ObjectStore
    folder: Path  # for a test's own files
    times: Times

    @property
    def settings(self) -> Path:
        """The local overlay's settings, for a small market whose log is in the bucket."""
        file = self.folder / "settings.yaml"
        if not file.is_file():
            given = yaml.safe_load(SETTINGS.read_text()) | {"log": {"path": f"s3://{stores.BUCKET}/{LOG}"}}
            for flag, value in zip(SMALL_MARKET[::2], SMALL_MARKET[1::2], strict=True):
                section, _, key = flag.removeprefix("--").replace("-", "_").partition(".")
                given.setdefault(section, {})[key] = yaml.safe_load(value)
            file.write_text(yaml.safe_dump(given))
        return file

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl says of the namespace, as the cluster's administrator."""
        return kubectl("-n", NAMESPACE, *arguments, given=given)

    def pods(self, name: str, **labels: str) -> list[dict[str, Any]]:
        """The pods of a submission."""
        wanted = {"app.kubernetes.io/instance": name, **labels}
        selector = ",".join(f"{label.replace('__', '/')}={value}" for label, value in wanted.items())
        return list(json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"])

    def start(self, *arguments: str, identity: Path | None = None) -> Command:
        """Start a command of `cartwheel`, as its user sees it."""
        variables = {"KUBECONFIG": str(identity or kubeconfig("admin")), "COLUMNS": "400", KEY_VARIABLE: KEY}
        process = subprocess.Popen(
            [CARTWHEEL, *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Command(process)

    def submit(self, job: str, *arguments: str, lake: str = "lake", identity: Path | None = None) -> Command:
        """Start a submission to the cluster, whose lake is a folder of the bucket."""
        where = ("--config", str(self.settings), "--lake.path", f"s3://{stores.BUCKET}/{lake}")
        return self.start("submit", job, "--on", "kubernetes", *where, *arguments, identity=identity)

    def run(
        self, job: str, *arguments: str, lake: str, injure: Callable[[str], object] | None = None, what: str = ""
    ) -> Run:
        """Run a job to its end, which is expected to be good; `injure` is called with its name once it is submitted."""
        events = f"--kubernetes.event-log=s3://{stores.BUCKET}/{EVENTS}"
        command = self.submit(job, "--wait", events, *arguments, lake=lake)
        try:
            if injure is not None:
                injure(command.name)
        finally:
            code = command.end()
        assert code == 0, command.output
        way = "spark-submit" if "spark-submit" in arguments else "operator"
        run = Run(job, way, command.begun, time.time(), what=what)
        return self.times.note(run, self.store.filesystem(), f"{stores.BUCKET}/{EVENTS}")

    def run_here(self, lake: Path, *which: str) -> None:
        """Run the pipeline on this machine without the cluster, with the settings of the cluster's jobs."""
        key = ("--privacy.key-variable", KEY_VARIABLE, "--privacy.create-key", "false")
        command = self.start("run", "--lake", str(lake), *which, *SMALL_MARKET, *key)
        assert command.end() == 0, command.output

    def lake(self, name: str) -> Lake:
        """A lake of the bucket."""
        return Lake(f"s3://{stores.BUCKET}/{name}")

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until something is there, and return it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.3)
        raise AssertionError(f"waited {WAIT_SECONDS} s in vain for {what}")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The node with its operators, started for these tests unless it runs, and a bucket beside it."""
    already, times = bool(node.running()), Times()
    try:
        if not already:
            cluster.start(lambda line: print(f"cluster        {line}", file=sys.__stderr__, flush=True))
        with (
            stores.object_store(tmp_path_factory.mktemp("store"), address=network.MACHINE_IP, port=STORE_PORT) as store,
            pytest.MonkeyPatch.context() as patched,
        ):
            for name, value in store.environment().items():
                patched.setenv(name, value)
            give_secret(store)
            store.filesystem().create_dir(f"{stores.BUCKET}/{EVENTS}")
            yield Shop(store, tmp_path_factory.mktemp("shop"), times)
    except (programs.NoNodeError, stores.NoObjectStoreError) as reason:
        warnings.warn(f"NO TEST ON KUBERNETES RUNS: {reason}", stacklevel=1)
        pytest.skip(str(reason))
    finally:
        times.write()
        if not already:
            node.stop()


@pytest.fixture(scope="session")
def local(shop: Shop) -> Path:
    """The lake of the local pipeline, with the tables of als; its log is in the bucket too."""
    lake = shop.folder / "lake"
    shop.run_here(lake, "--to", "als")
    log, store = lake / "raw" / "market", shop.store.filesystem()
    pafs.copy_files(str(log), f"{stores.BUCKET}/{LOG}", destination_filesystem=store)
    return lake


def give_secret(store: stores.ObjectStore) -> None:
    """The Secret that the manifests refer to."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "cartwheel", "namespace": NAMESPACE},
        "stringData": {**store.environment("writer"), KEY_VARIABLE: KEY, TOKENS_VARIABLE: TOKEN},
    }
    kubectl("apply", "-f", "-", given=yaml.safe_dump(secret))
