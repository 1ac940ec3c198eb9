"""What a node does with a rendered pod, done with podman: volumes, users, environment, probes, the way it ends.

It goes by the manifest alone, so that what is played is what is applied. What a node has and this has not: network
policies, the scheduler, and the admission of Pod Security, which other tests look at.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.containers.engine import Engine, Images
from tests.waiting import wait_until

Manifest = dict[str, Any]

_numbers = itertools.count(1)
_MEBI = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _MEBI[quantity[-2:]]


def _writes_projection(folder: Path, data: dict[str, str], mode: int, group: int) -> None:
    """Write files as a node does for ConfigMaps and Secrets: links to links to a folder that is exchanged at once."""
    version = folder / f"..{time.time_ns()}"
    version.mkdir(mode=0o755)
    for name, text in data.items():
        (version / name).write_text(text)
        (version / name).chmod(mode)
        os.chown(version / name, 0, group)
    fresh = folder / "..data_tmp"
    fresh.symlink_to(version.name)
    fresh.rename(folder / "..data")
    for name in data:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


@dataclass
class Pod:
    """One pod, from its volumes to its end."""

    node: Node
    name: str
    """Also its host name, as in a cluster."""
    template: Manifest
    service: str
    """The Service, or the worker, under which others find it."""
    init_log: str = ""
    container: str = ""
    seconds_to_ready: float = 0.0
    """From the first of its volumes; at most, since it is looked at after those that were started with it."""
    _began: float = 0.0
    _port: int = 0
    _memory: list[Path] = field(default_factory=list)
    _sources: dict[str, Path] = field(default_factory=dict)

    @property
    def spec(self) -> Manifest:
        spec: Manifest = self.template["spec"]
        return spec

    @property
    def main(self) -> Manifest:
        """Its only container but those that run before."""
        (container,) = self.spec["containers"]
        found: Manifest = container
        return found

    # -- volumes

    def make_volumes(self) -> None:
        """Make a place on the host for each volume, with the owner and mode that a node gives it."""
        group = self.spec["securityContext"]["fsGroup"]
        for volume in self.spec["volumes"]:
            self._sources[volume["name"]] = self._make_volume(volume, group)

    def _make_volume(self, volume: Manifest, group: int) -> Path:
        own = self.node.place / "pods" / self.name / volume["name"]
        if "persistentVolumeClaim" in volume:
            return self.node.claim(volume["persistentVolumeClaim"]["claimName"], group)
        own.mkdir(parents=True)
        if "emptyDir" in volume:
            empty = volume["emptyDir"]
            if empty.get("medium") == "Memory":
                size = _bytes(empty["sizeLimit"])
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", own], check=True, timeout=20)
                self._memory.append(own)
            os.chown(own, 0, group)
            own.chmod(0o2777)
        elif "configMap" in volume:
            data = self.node.config_maps[volume["configMap"]["name"]]
            _writes_projection(own, data, 0o644, group)
        else:
            secret = volume["secret"]
            known = self.node.secrets.get(secret["secretName"])
            assert known is not None or secret.get("optional"), f"the node waits for the Secret {secret['secretName']}"
            _writes_projection(own, known or {}, secret["defaultMode"], group)
        return own

    def changes_config_map(self, name: str, data: dict[str, str]) -> None:
        """Write other files into a ConfigMap's volume, as a node does a minute after the change."""
        for volume in self.spec["volumes"]:
            if volume.get("configMap", {}).get("name") == name:
                folder = self._sources[volume["name"]]
                _writes_projection(folder, data, 0o644, self.spec["securityContext"]["fsGroup"])

    # -- containers

    def _options(self, container: Manifest) -> list[str]:
        context = {**self.spec["securityContext"], **container["securityContext"]}
        options = ["--network", self.node.network, "--hostname", self.name, "--no-healthcheck"]
        options += ["--user", f"{context['runAsUser']}:{context['runAsGroup']}", "--group-add", str(context["fsGroup"])]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"} and context["readOnlyRootFilesystem"]
        # podman would put its own writable places over a root that is read-only.
        options += ["--read-only", "--read-only-tmpfs=false", "--cap-drop", *context["capabilities"]["drop"]]
        if not context["allowPrivilegeEscalation"]:
            options += ["--security-opt", "no-new-privileges"]
        options += ["--memory", str(_bytes(container["resources"]["limits"]["memory"]))]
        environ: dict[str, str] = {}
        for source in container.get("envFrom", []):
            environ |= self.node.config_maps[source["configMapRef"]["name"]]
        environ |= {one["name"]: one["value"] for one in container.get("env", [])}
        options += [part for name, value in environ.items() for part in ("--env", f"{name}={value}")]
        for mount in sorted(container["volumeMounts"], key=lambda mount: mount["mountPath"]):
            source_path = self._sources[mount["name"]] / mount.get("subPath", "")
            # A node binds what a link points to at this moment: a file by subPath is never renewed.
            bound = source_path.resolve() if "subPath" in mount else source_path
            read_only = ":ro" if mount.get("readOnly") else ""
            options += ["--volume", f"{bound}:{mount['mountPath']}{read_only}"]
        return options

    def _command(self, container: Manifest) -> list[str]:
        entry = container.get("command", [])
        before = ["--entrypoint", json.dumps(entry)] if entry else []
        return [*before, self.node.image(container["image"]), *container.get("args", [])]

    def start(self) -> None:
        """Run what runs before, then start the container.

        Raises:
            AssertionError: what runs before has failed; `init_log` has its words.
        """
        self._began = time.monotonic()
        self.make_volumes()
        for container in self.spec.get("initContainers", []):
            ran = self.node.engine(
                "run", "--rm", *self._options(container), *self._command(container), check=False, timeout=60
            )
            self.init_log = ran.stdout + ran.stderr
            assert ran.returncode == 0, f"{self.name}: {container['name']} ended with {ran.returncode}: {self.init_log}"
        publish = [part for port in self.main["ports"] for part in ("--publish", f"127.0.0.1::{port['containerPort']}")]
        begun = self.node.engine(
            *("run", "-d", "--label", f"codehornets.test={self.node.network}", "--network-alias", self.service),
            *publish,
            *self._options(self.main),
            *self._command(self.main),
        )
        self.container = begun.stdout.split()[-1]
        ports = self.node.engine.inspect("container", self.container)["NetworkSettings"]["Ports"]
        self._port = int(ports[f"{self.main['ports'][0]['containerPort']}/tcp"][0]["HostPort"])

    def probe(self, name: str) -> bool:
        """Ask one of its probes as the kubelet does."""
        probe = self.main[name]
        if "exec" in probe:
            told = self.node.engine("exec", self.container, *probe["exec"]["command"], check=False, timeout=30)
            return told.returncode == 0
        assert probe["httpGet"]["port"] == self.main["ports"][0]["name"]
        try:
            return self.get(probe["httpGet"]["path"], probe["timeoutSeconds"]).is_success
        except httpx.TransportError:
            return False

    def get(self, path: str, timeout: float = 20) -> httpx.Response:
        """Ask its HTTP port for a path."""
        return httpx.get(f"http://127.0.0.1:{self._port}{path}", timeout=timeout, trust_env=False)

    def wait_ready(self, timeout: float = 60) -> None:
        """Wait for the startup probe, then for the readiness probe; ending meanwhile fails the test."""
        for name in ("startupProbe", "readinessProbe"):

            def succeeds(name: str = name) -> bool:
                assert self.node.engine.inspect("container", self.container)["State"]["Running"], self.log()
                return self.probe(name)

            wait_until(succeeds, timeout, f"{name} of {self.name}")
        self.seconds_to_ready = time.monotonic() - self._began

    def log(self) -> str:
        """Return what its container has said."""
        told = self.node.engine("logs", self.container, check=False)
        return told.stdout + told.stderr

    def exec(self, *command: str, check: bool = True, timeout: float = 90) -> str:
        """Run a command in its container, as `kubectl exec` does; returns what it printed on both."""
        done = self.node.engine("exec", self.container, *command, check=check, timeout=timeout)
        return done.stdout + done.stderr

    def delete(self) -> tuple[int, float]:
        """End it as `kubectl delete pod` does; returns the exit code and the seconds that it took."""
        grace = self.spec["terminationGracePeriodSeconds"]
        began = time.monotonic()
        self.node.engine("stop", "--time", str(grace), self.container, timeout=grace + 30)
        seconds = time.monotonic() - began
        code = int(self.node.engine.inspect("container", self.container)["State"]["ExitCode"])
        self.remove()
        return code, seconds

    def kill(self) -> None:
        """End everything in it with SIGKILL, as a node that loses its power does."""
        self.node.engine("kill", "--signal", "KILL", self.container)
        self.remove()

    def remove(self) -> None:
        """Take away its container and what lay in its memory."""
        if self.container:
            self.node.engine("rm", "-f", self.container, check=False)
        for place in self._memory:
            subprocess.run(["umount", place], check=False, timeout=20)
        self._memory.clear()
        shutil.rmtree(self.node.place / "pods" / self.name, ignore_errors=True)
        if self in self.node.pods:
            self.node.pods.remove(self)


@dataclass
class Node:
    """One node, with the objects that were applied to it."""

    engine: Engine
    images: Images
    place: Path
    objects: Sequence[Manifest]
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    """What an overlay of one's own adds to `worker-settings`."""
    config_maps: dict[str, dict[str, str]] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = f"chnode{os.getpid()}n{next(_numbers)}"
        self.place.chmod(0o755)
        for one in self.objects:
            name = one["metadata"]["name"]
            if one["kind"] == "ConfigMap":
                more = self.settings if name.startswith("worker-settings") else {}
                self.config_maps[name] = {**one.get("data", {}), **more}
            if one["kind"] == "Secret":
                self.secrets[name] = {key: b64decode(text).decode() for key, text in one["data"].items()}
        self.engine("network", "create", self.network)

    def image(self, name: str) -> str:
        """Return the image under test in place of the one that a manifest names."""
        if "codehornets-ai/" not in name:
            return name
        return self.images.worker if "codehornets-ai/worker" in name else self.images.orchestrator

    def claim(self, name: str, group: int) -> Path:
        """Return the place of a claim, which must have been applied; it outlives the pods."""
        claims = {one["metadata"]["name"] for one in self.objects if one["kind"] == "PersistentVolumeClaim"}
        assert name in claims, f"the node waits for the claim {name}"
        place = self.place / "claims" / name
        if not place.exists():
            place.mkdir(parents=True)
            os.chown(place, 0, group)
            place.chmod(0o2775)
        return place

    def config_map(self, name: str) -> str:
        """Return the name of a ConfigMap with its hash."""
        (found,) = (one for one in self.config_maps if one == name or one.startswith(f"{name}-"))
        return found

    def new_pod(self, name: str, service: str | None = None) -> Pod:
        """Return a pod of a Deployment or StatefulSet, not started yet."""
        (owner,) = (
            one
            for one in self.objects
            if one["kind"] in ("Deployment", "StatefulSet") and one["metadata"]["name"] == name
        )
        pod = Pod(self, f"{name}-{next(_numbers)}", owner["spec"]["template"], service or name)
        self.pods.append(pod)
        return pod

    def start(self, *names: str) -> list[Pod]:
        """Start pods and wait until all of them are ready."""
        pods = [self.new_pod(name) for name in names]
        for pod in pods:
            pod.start()
        for pod in pods:
            pod.wait_ready()
        return pods

    def remove(self) -> None:
        """Take away everything."""
        for pod in list(self.pods):
            pod.remove()
        self.engine("network", "rm", "-f", self.network, check=False)
