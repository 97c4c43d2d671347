"""A real object store of this machine: SeaweedFS, which speaks S3, built once from its sources and kept outside the checkout."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from lib.engines.ports import free_ports
from tests import environments

MODULE, VERSION = "github.com/seaweedfs/seaweedfs", "v0.0.0-20261109003541-7506e5f91cd6"
CACHE = environments.CACHE / "seaweedfs" / VERSION
BUILD_SECONDS, START_SECONDS = 1800, 60
BUCKET = "shop"
SECRET = "of-the-shop-and-of-nobody-else"


class NoObjectStoreError(Exception):
    """There is no object store on this machine; the message says why."""


@dataclass
class ObjectStore:
    """A store that answers, and how to reach it."""

    port: int
    address: str
    command: Sequence[str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start its server, and make the bucket as soon as that answers.

        Raises:
            RuntimeError: it ended, or did not answer in time.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        for _ in range(START_SECONDS * 4):
            try:
                self.filesystem().create_dir(BUCKET)
                with self.filesystem().open_output_stream(f"{BUCKET}/.first") as stream:
                    stream.write(b"answers")
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.25)
            else:
                return
        raise RuntimeError(f"the object store did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """End its server at once; what it was told to keep, it finds again."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def environment(self, key: str = "shop", secret: str = SECRET) -> dict[str, str]:
        """The variables by which every engine reaches it, with the key of one who may do all, `writer`, who makes no bucket, or `reader`, who may not write."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.address}:{self.port}",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
        }

    def filesystem(self) -> pafs.S3FileSystem:
        """The store, as its owner sees it."""
        return pafs.S3FileSystem(
            endpoint_override=f"{self.address}:{self.port}",
            scheme="http",
            access_key="shop",
            secret_key=SECRET,
            region="us-east-1",
            allow_bucket_creation=True,
        )

    def contents(self, folder: str) -> dict[str, bytes]:
        """What lies below a folder of the bucket, by path."""
        store = self.filesystem()
        infos = store.get_file_info(pafs.FileSelector(f"{BUCKET}/{folder}", recursive=True, allow_not_found=True))
        return {info.path: store.open_input_file(info.path).read() for info in infos if info.is_file}


@contextmanager
def object_store(
    folder: Path, *, most_megabytes: int | None = None, address: str = "127.0.0.1", port: int | None = None
) -> Iterator[ObjectStore]:
    """A store with one bucket, which keeps its data in `folder` and ends with the block; one with a limit is soon full.

    Raises:
        NoObjectStoreError: its server can neither be found nor be built here.
    """
    server = binary()
    folder.mkdir(parents=True, exist_ok=True)
    most = ["Read", "Write", "List", "Tagging"]
    actions = {"shop": ["Admin", *most], "writer": most, "reader": ["Read", "List"]}
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": allowed}
        for name, allowed in actions.items()
    ]
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"identities": identities}))
    master, volume, filer, free, *inner = free_ports(8)
    port = port or free
    command = [
        *(
            str(server),
            "server",
            f"-ip={address}",
            f"-ip.bind={address}",
            f"-dir={folder}",
        ),
        *(
            ("-master.volumeSizeLimitMB=256",)
            if most_megabytes is None
            else ("-master.volumeSizeLimitMB=1", f"-volume.max={most_megabytes}")
        ),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *(f"-master.port.grpc={inner[0]}", f"-volume.port.grpc={inner[1]}", f"-filer.port.grpc={inner[2]}"),
        *("-s3", f"-s3.port={port}", f"-s3.port.grpc={inner[3]}", f"-s3.config={keys}"),
    ]
    store = ObjectStore(port, address, command, folder / "server.log")
    try:
        store.start()
        yield store
    finally:
        store.kill()


def binary() -> Path:
    """The server's binary; its first build takes minutes."""
    path = CACHE / "weed"
    if path.is_file():
        return path
    go = shutil.which("go")
    if go is None:
        raise NoObjectStoreError("the object store's server is not built, and there is no Go to build it")
    build = CACHE.with_name(f".build-{os.getpid()}")
    build.mkdir(parents=True)
    (build / "go.mod").write_text("module server\n\ngo 1.24\n")
    modules = {**os.environ, "GOFLAGS": "-mod=mod"}
    for command in ([go, "get", f"{MODULE}@{VERSION}"], [go, "build", "-o", "weed", f"{MODULE}/weed"]):
        try:
            subprocess.run(command, cwd=build, env=modules, check=True, capture_output=True, timeout=BUILD_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = (error.stderr or b"").decode(errors="replace").strip()[-300:]
            raise NoObjectStoreError(f"the object store's server cannot be built: {error}: {said}") from None
    CACHE.mkdir(parents=True, exist_ok=True)
    (build / "weed").replace(path)
    shutil.rmtree(build, ignore_errors=True)
    return path
