"""The network policies, worked out: each flow that the team needs is let through, and no other is."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from itertools import product

import pytest

from tests.deploy.manifests import RENDERS, Manifest, matches, of_kind, pods, render


@dataclass(frozen=True)
class End:
    """One end of a flow: a pod, or an address outside of the cluster."""

    name: str
    namespace: str = ""
    namespace_labels: dict[str, str] = field(default_factory=dict, hash=False)
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    address: str = ""


PORTS = (("UDP", 53), ("TCP", 53), ("TCP", 80), ("TCP", 443), ("TCP", 6379), ("TCP", 8080), ("TCP", 8700))

OUTSIDE = [
    End("names", "kube-system", {"kubernetes.io/metadata.name": "kube-system"}, {"k8s-app": "kube-dns"}),
    End("other in kube-system", "kube-system", {"kubernetes.io/metadata.name": "kube-system"}, {"k8s-app": "proxy"}),
    End("prometheus", "monitoring", {"codehornets.ai/may-scrape": "true"}),
    End("ingress", "ingress", {"codehornets.ai/may-submit": "true"}),
    End("keda", "keda", {"codehornets.ai/may-scale": "true"}),
    # One that gives itself the label of a pod, from a namespace without it.
    End("stranger", "default", {}, {"codehornets.ai/may-submit": "true", "app.kubernetes.io/component": "worker"}),
    End("client", "codehornets", {}, {"codehornets.ai/may-submit": "true"}),
    End("scraper", "codehornets", {}, {"codehornets.ai/may-scrape": "true"}),
    End("model API", address="160.79.104.10"),
    End("model API over IPv6", address="2607:6bc0::10"),
    *(End(address, address=address) for address in ("10.96.0.1", "172.16.0.9", "192.168.1.1", "169.254.169.254")),
    *(End(address, address=address) for address in ("100.64.0.1", "fd00::1", "fe80::1")),
]


def _ends(objects: list[Manifest]) -> list[End]:
    team = [
        End(name.partition("/")[2], "codehornets", {}, pod["metadata"]["labels"])
        for name, pod in pods(objects)
        if name != "Pod/ready"
    ]
    return [*team, *OUTSIDE]


def _is_peer(peer: Manifest, end: End, home: str) -> bool:
    if "ipBlock" in peer:
        if not end.address:
            return False
        address = ip_address(end.address)
        block = peer["ipBlock"]
        inside = address in ip_network(block["cidr"])
        return inside and not any(address in ip_network(one) for one in block.get("except", []))
    if end.address:
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], end.namespace_labels):
            return False
    elif end.namespace != home:
        return False
    return matches(peer.get("podSelector", {}), end.labels)


def _allows(policies: list[Manifest], end: End, other: End, way: str, protocol: str, port: int) -> bool:
    if end.namespace != "codehornets":
        return True
    own = [
        policy["spec"]
        for policy in policies
        if way.title() in policy["spec"]["policyTypes"] and matches(policy["spec"]["podSelector"], end.labels)
    ]
    peers = "from" if way == "ingress" else "to"
    return not own or any(
        {"protocol": protocol, "port": port} in rule["ports"]
        and any(_is_peer(peer, other, "codehornets") for peer in rule[peers])
        for policy in own
        for rule in policy.get(way, [])
    )


def flows(objects: list[Manifest]) -> set[tuple[str, str, str]]:
    """Return every flow that the policies let through, with at least one end in the team."""
    policies = of_kind(objects, "NetworkPolicy")
    found = set()
    ends = _ends(objects)
    for (source, target), (protocol, port) in product(product(ends, ends), PORTS):
        if "codehornets" not in {source.namespace, target.namespace} or source == target or source.address:
            continue
        leaves = _allows(policies, source, target, "egress", protocol, port)
        if leaves and _allows(policies, target, source, "ingress", protocol, port):
            found.add((source.name, target.name, f"{protocol} {port}"))
    return found


_WORKERS = ("marie", "anga", "fabien")
_TEAM = (*_WORKERS, "orchestrator")


def needed(*, redis: bool, keda: bool) -> set[tuple[str, str, str]]:
    """Return what must get through, and nothing besides."""
    wanted = {(one, "names", f"{protocol} 53") for one in _TEAM for protocol in ("UDP", "TCP")}
    wanted |= {(one, api, "TCP 443") for one in _WORKERS for api in ("model API", "model API over IPv6")}
    wanted |= {("prometheus", one, "TCP 8080") for one in _WORKERS} | {("prometheus", "orchestrator", "TCP 8700")}
    wanted |= {("ingress", "orchestrator", "TCP 8700")}
    if redis:
        wanted |= {(one, "redis", "TCP 6379") for one in _TEAM}
    if keda:
        wanted.add(("keda", "redis", "TCP 6379"))
    return wanted


@pytest.mark.parametrize("name", RENDERS)
def test_each_needed_flow_gets_through_and_no_other(name: str) -> None:
    redis = "dev" not in name
    # Pods of the namespace itself are let in by their label; to get out they need a policy of their own.
    assert flows(render(name)) == needed(redis=redis, keda=name.endswith("keda"))


@pytest.mark.parametrize("name", ["helm-dev", "helm-production"])
def test_helms_test_reaches_what_it_asks(name: str) -> None:
    objects = render(name)
    policies = of_kind(objects, "NetworkPolicy")
    (ready,) = (
        End("ready", "codehornets", {}, pod["metadata"]["labels"]) for own, pod in pods(objects) if own == "Pod/ready"
    )
    reached = {
        (end.name, f"{protocol} {port}")
        for end in _ends(objects)
        for protocol, port in PORTS
        if _allows(policies, ready, end, "egress", protocol, port)
        and _allows(policies, end, ready, "ingress", protocol, port)
    }
    services = {("orchestrator", "TCP 8700"), *((worker, "TCP 8080") for worker in _WORKERS)}
    assert reached == services | {("names", "UDP 53"), ("names", "TCP 53")}


def test_without_the_first_policy_everything_would_get_through() -> None:
    objects = [one for one in render("kustomize-dev") if one["kind"] != "NetworkPolicy"]
    found = flows(objects)
    assert {("stranger", "orchestrator", "TCP 8700"), ("marie", "169.254.169.254", "TCP 80")} <= found
    assert flows(render("kustomize-dev")) < found
