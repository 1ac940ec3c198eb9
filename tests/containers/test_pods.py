"""The pods that kustomize makes, played with podman: users, volumes, probes, ends. No cluster; see kubelet.py."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers.engine import Engine, Images
from tests.containers.kubelet import Node, Pod
from tests.containers.transcript import Transcript
from tests.deploy.manifests import render
from tests.standin.messages_api import MessagesApi, Seen, hang, reply, tool_use
from tests.waiting import wait_until

WORKERS = ("marie", "anga", "fabien")
SECRETS = {"model": {"anthropic_api_key": "sk-dummy-for-tests\n"}, "redis": {"password": 'a "strange" p@ss: 100%\\\n'}}

pytestmark = [
    pytest.mark.claude,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: volumes of other users, and memory of a bounded size"),
    pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman: it takes places of the host as they are"),
]

NewNode = Callable[..., Node]


@pytest.fixture
def new_node(engine: Engine, images: Images, api: MessagesApi, tmp_path: Path) -> Iterator[NewNode]:
    """Make a node to which an overlay was applied; everything of it is removed at the end."""
    if engine.program != "podman":
        pytest.skip("a node is played with podman; CONTAINER_ENGINE=podman chooses it")
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and "pytest" in parent.name:
            parent.chmod(0o755)
    nodes: list[Node] = []

    def make(overlay: str, secrets: dict[str, dict[str, str]] | None = None, **settings: str) -> Node:
        place = tmp_path / overlay
        place.mkdir()
        model = {
            "ANTHROPIC_BASE_URL": api.url.replace("0.0.0.0", "host.containers.internal"),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        node = Node(engine, images, place, render(f"kustomize-{overlay}"), dict(secrets or {}), {**model, **settings})
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.remove()


def submit(orchestrator: Pod, worker: str, text: str) -> str:
    return orchestrator.exec("codehornets", "submit", worker, text, "--wait").splitlines()[-1]


def result_of(orchestrator: Pod, task: str) -> dict[str, object]:
    told = orchestrator.exec("codehornets", "result", task, "--wait", "--json")
    result: dict[str, object] = json.loads(told)
    return result


def test_the_pods_of_dev_work_and_end_without_any_secret(new_node: NewNode, transcript: Transcript) -> None:
    node = new_node("dev")
    pods = node.start(*WORKERS, "orchestrator")
    orchestrator = pods[-1]
    slowest = max(pods, key=lambda pod: pod.seconds_to_ready)
    transcript.say(f"pods of dev: ready after at most {slowest.seconds_to_ready:.1f} s ({slowest.name})")
    assert slowest.seconds_to_ready <= 30
    for worker in WORKERS:
        assert submit(orchestrator, worker, f"hello {worker}") == f"hello {worker}"
    dropped = '{"task_id": "dropped", "description": "by hand"}'
    orchestrator.exec("sh", "-c", f"echo '{dropped}' > /shared/triggers/marie/dropped.trigger")
    assert orchestrator.exec("codehornets", "result", "dropped", "--wait").strip() == "by hand"
    assert all(pod.probe("livenessProbe") for pod in pods)
    # As docs/upgrading.md says; what goes to standard output may not be changed by what is said beside it.
    saved = "TMPDIR=/var/lib/codehornets codehornets backup - > /shared/saved.tar.gz && codehornets restore --check"
    orchestrator.exec("sh", "-c", f"{saved} /shared/saved.tar.gz")
    for pod in pods:
        code, seconds = pod.delete()
        assert code == 0, pod.name
        assert seconds < pod.spec["terminationGracePeriodSeconds"]


def test_every_place_that_a_process_writes_to_is_writable_and_no_other(new_node: NewNode) -> None:
    (marie,) = new_node("dev").start("marie")
    for place in ("/shared", "/shared/pipes", "/shared/triggers", "/workspace", "/home/codehornets", "/tmp"):
        marie.exec("sh", "-c", f"touch {place}/mine && rm {place}/mine")
    for place in ("/", "/etc", "/run", "/var/tmp", "/etc/codehornets", "/run/secrets/model"):
        assert "mine" in marie.exec("touch", f"{place}/mine", check=False), place
    told = marie.exec("sh", "-c", "grep -E '^(Uid|Gid|CapEff|CapBnd|NoNewPrivs):' /proc/1/status")
    seen = {name: words.split() for name, _, words in (line.partition(":") for line in told.splitlines())}
    assert set(seen["Uid"]) == set(seen["Gid"]) == {"1000"}
    assert int(seen["CapEff"][0], 16) == int(seen["CapBnd"][0], 16) == 0
    assert seen["NoNewPrivs"] == ["1"]
    # What belongs to root here, as a claim's root does, must not make git refuse a repository in it.
    assert "nothing to commit" in marie.exec("sh", "-c", "cd /workspace && git init -q && git status")


@pytest.mark.timeout(300, func_only=True)
@pytest.mark.parametrize("overlay", ["production", "redis-only"])
def test_the_pods_of_several_nodes_work_and_a_deleted_one_goes_on_in_its_session(
    overlay: str, new_node: NewNode, api: MessagesApi, transcript: Transcript
) -> None:
    node = new_node(overlay, SECRETS)
    # No order is kept: nobody waits for another to be up.
    pods = node.start("marie", "redis", "fabien", "orchestrator")
    marie, redis, _, orchestrator = pods
    transcript.say(f"pods of {overlay}: ready after at most {max(pod.seconds_to_ready for pod in pods):.1f} s")
    api.hold_again()
    prompt = f"build in the overlay {overlay}"
    api.when(prompt, tool_use("Read", {"file_path": "/etc/hostname"}), hang(reply("never said")))
    orchestrator.exec("codehornets", "submit", "marie", f"Please {prompt}", "--id", f"deleted-{overlay}")
    api.wait_for_request(lambda seen: prompt in seen.prompt and bool(seen.tool_results), 60)
    code, seconds = marie.delete()
    assert code == 0
    assert 40 <= seconds < 60, "it has SHUTDOWN_GRACE, and is gone within its pod's grace"
    transcript.say(f"a pod of {overlay} deleted at work: ended by itself after {seconds:.0f} s of 60 s")

    def goes_on(seen: Seen) -> bool:
        return "You were interrupted" in seen.prompt and prompt in json.dumps(seen.body)

    api.when(goes_on, reply("finished in the new pod"))
    node.start("marie")
    result = result_of(orchestrator, f"deleted-{overlay}")
    assert (result["status"], result["output"]) == ("completed", "finished in the new pod")
    # Each request of Claude Code says of which conversation it is.
    told = [json.dumps(seen.body["metadata"]) for seen in api.requests if prompt in json.dumps(seen.body)]
    assert len(told) >= 3 and all(str(result["session_id"]) in metadata for metadata in told), told
    assert "NOAUTH" in redis.exec("redis-cli", "ping", check=False)
    for pod in list(node.pods):
        assert pod.delete()[0] == 0, pod.name


def test_a_pod_killed_at_work_on_a_shared_volume_goes_on_in_its_session(
    new_node: NewNode, api: MessagesApi, transcript: Transcript
) -> None:
    settings = {"ANTHROPIC_API_KEY_FILE": "/run/secrets/model/anthropic_api_key"}
    node = new_node("dev", {"model": SECRETS["model"]}, **settings)
    marie, orchestrator = node.start("marie", "orchestrator")
    api.hold_again()
    steps = [
        tool_use("Read", {"file_path": path}) for path in ("/run/secrets/model/anthropic_api_key", "/etc/hostname")
    ]
    api.when("build in a pod", *steps, hang(reply("never said")))
    orchestrator.exec("codehornets", "submit", "marie", "Please build in a pod", "--id", "killed")
    api.wait_for_request(lambda seen: "build in a pod" in seen.prompt and bool(seen.tool_results), 60, count=2)
    # Its key is in its Secret, and the agent is kept from that.
    came = [block for seen in api.requests if "build in a pod" in seen.prompt for block in seen.tool_results]
    assert [bool(block.get("is_error")) for block in came] == [True, False], came
    assert "sk-dummy" not in json.dumps(came)
    told = next(line for line in marie.get("/readyz").text.splitlines() if "isolated" in line)
    transcript.say(f"in a pod: {told.strip()}")
    # The transcript is written a moment behind the request that it describes.
    projects = "grep -rqs tool_result /home/codehornets/.claude/projects"
    wait_until(lambda: "yes" in marie.exec("sh", "-c", f"{projects} && echo yes", check=False), 30, "the transcript")
    marie.kill()

    def goes_on(seen: Seen) -> bool:
        return "You were interrupted" in seen.prompt and "build in a pod" in json.dumps(seen.body)

    api.when(goes_on, reply("finished by another pod"))
    (other,) = node.start("marie")
    assert other.name != marie.name
    result = result_of(orchestrator, "killed")
    assert (result["status"], result["output"], result["attempts"]) == ("completed", "finished by another pod", 2)
    events = orchestrator.exec("cat", "/shared/events/marie/killed.jsonl").splitlines()
    sessions = {event["data"]["session_id"] for event in map(json.loads, events) if event["event"] == "prompt"}
    assert sessions == {result["session_id"]}


def test_two_replicas_share_the_work_of_one_node(new_node: NewNode) -> None:
    node = new_node("dev")
    first, second, orchestrator = node.start("fabien", "fabien", "orchestrator")
    for number in range(8):
        orchestrator.exec("codehornets", "submit", "fabien", f"text {number}", "--id", f"shared-{number}")
    for number in range(8):
        assert result_of(orchestrator, f"shared-{number}")["output"] == f"text {number}"
    first.kill()
    assert submit(orchestrator, "fabien", "after the first was killed") == "after the first was killed"
    assert second.delete()[0] == 0


def test_a_rolling_update_under_load_loses_and_doubles_nothing(new_node: NewNode, transcript: Transcript) -> None:
    node = new_node("dev")
    pods = {pod.service: pod for pod in node.start("anga", "fabien", "orchestrator")}
    orchestrator = pods["orchestrator"]
    expected: list[str] = []
    done = threading.Event()
    troubles: list[BaseException] = []

    def load() -> None:
        try:
            while not done.is_set():
                for worker in ("anga", "fabien"):
                    name = f"load-{worker}-{len(expected)}"
                    orchestrator.exec("codehornets", "submit", worker, f"text of {name}", "--id", name)
                    expected.append(name)
        except BaseException as error:
            troubles.append(error)

    sending = threading.Thread(target=load)
    sending.start()
    try:
        for worker in ("anga", "fabien"):
            # maxSurge 0: the old pod ends before the new one begins.
            assert pods[worker].delete()[0] == 0
            (pods[worker],) = node.start(worker)
    finally:
        done.set()
        sending.join()
    assert not troubles, troubles[0]
    # The orchestrator's turn: Recreate, on the same ledger.
    assert orchestrator.delete()[0] == 0
    (fresh,) = node.start("orchestrator")
    for name in expected:
        assert result_of(fresh, name)["output"] == f"text of {name}"
    for worker in ("anga", "fabien"):
        mine = {f"{name}.json" for name in expected if name.startswith(f"load-{worker}-")}
        assert set(fresh.exec("ls", f"/shared/results/{worker}").split()) == mine
    transcript.say(f"{len(expected)} tasks through a rolling update of pods: 0 lost, 0 doubled")
    assert len(expected) >= 6


def test_a_missing_secret_is_named_in_the_first_line_of_the_log(new_node: NewNode) -> None:
    node = new_node("production", {"redis": SECRETS["redis"]})
    pod = node.new_pod("marie")
    with pytest.raises(AssertionError, match="ended with 2"):
        pod.start()
    # podman may have a word of its own before it.
    first = next(line for line in pod.init_log.splitlines() if line.startswith("container:"))
    assert first.startswith(
        "container: ANTHROPIC_API_KEY_FILE is '/run/secrets/model/anthropic_api_key', which cannot be read"
    )
    assert "Traceback" not in pod.init_log


def test_a_missing_claim_is_what_the_node_waits_for(new_node: NewNode) -> None:
    node = new_node("dev")
    node.objects = [one for one in node.objects if one["metadata"]["name"] != "home-marie"]
    with pytest.raises(AssertionError, match="the claim home-marie"):
        node.new_pod("marie").start()


def test_hook_rules_of_a_config_map_are_renewed_and_broken_ones_leave_those_before(new_node: NewNode) -> None:
    node = new_node("dev")
    (marie,) = node.start("marie")
    name = node.config_map("hook-rules")
    good = json.loads(node.config_maps[name]["marie-hooks.json"])
    marie.changes_config_map(name, {**node.config_maps[name], "marie-hooks.json": json.dumps(good["hooks"][:1])})
    reload = ("codehornets", "control", "marie", "reload")
    told = marie.exec(*reload)
    assert "hook_rules" in told or "rules" in told
    broken = [{**good["hooks"][0], "event": "Nonsense"}]
    marie.changes_config_map(name, {**node.config_maps[name], "marie-hooks.json": json.dumps(broken)})
    refused = marie.exec(*reload, check=False)
    assert "marie-plan-written" in refused and "Nonsense" in refused
    assert marie.probe("readinessProbe")
    # A pod that starts with them is not ready: it ends, and names the rule.
    node.config_maps[name]["marie-hooks.json"] = json.dumps(broken)
    fresh = node.new_pod("marie")
    fresh.start()
    wait_until(
        lambda: not node.engine.inspect("container", fresh.container)["State"]["Running"], 30, "the end of the pod"
    )
    assert "marie-plan-written" in fresh.log() and "Traceback" not in fresh.log()
