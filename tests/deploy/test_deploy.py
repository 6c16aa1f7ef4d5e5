"""`deploy/`: its files fit the schemas of what reads them, and agree with the settings of the host."""

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from echo_core.runtime.settings import Settings, load_settings
from echo_core.workspace import Workspace
from support.servers import missing

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
UNIT: Final = DEPLOY / "systemd" / "echo-core.service"
DOCKERFILE: Final = DEPLOY / "Dockerfile"
KUBERNETES: Final = "1.31"
_TELEMETRY_S: Final = 5.0
"""telemetry.shutdown_timeout_s, which the files leave alone."""

yaml: Any = importlib.import_module("yaml")
validator: Any = importlib.import_module("kubernetes_validate")


def settings_of(folder: Path) -> Settings:
    return load_settings(Workspace(folder))


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Of a Dockerfile, without comments, continued lines as one."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, rest.strip()


def manifests() -> list[Any]:
    """What `kubectl apply -k` would send."""
    kubectl = shutil.which("kubectl") or missing("kubectl", "see kubernetes.io")
    done = subprocess.run(
        [kubectl, "kustomize", DEPLOY / "kubernetes"], check=True, capture_output=True, text=True
    )
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("file", sorted((DEPLOY / "kubernetes").rglob("*.yaml")), ids=lambda file: file.name)
def test_every_manifest_by_itself_fits_the_schema(file: Path) -> None:
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        if file.name != "kustomization.yaml":
            validator.validate(document, KUBERNETES, strict=True)


def test_what_kustomize_makes_of_them_fits_the_schema_and_is_all_there() -> None:
    made = manifests()
    for document in made:
        validator.validate(document, KUBERNETES, strict=True)
    names = {(one["kind"], re.sub(r"-[a-z0-9]{10}$", "", one["metadata"]["name"])) for one in made}
    assert {("StatefulSet", f"captions-{part}") for part in ("source", "work", "sink")} <= names
    assert {("ConfigMap", "captions-settings"), ("Service", "nats")} <= names


def test_all_plugins_of_the_pipeline_run_on_some_group_of_hosts_and_each_on_one() -> None:
    hosts = [one for one in manifests() if one["metadata"]["name"].startswith("captions-")]
    pods = [one["spec"]["template"]["spec"] for one in hosts if one["kind"] == "StatefulSet"]
    run = [name for pod in pods for name in pod["containers"][0]["args"][3:]]
    (built,) = re.findall(r'ARG PLUGINS="([^"]*)"', DOCKERFILE.read_text(encoding="utf-8"))
    assert sorted(run) == sorted(built.split())


def test_a_pod_is_given_longer_to_stop_than_its_host_takes_and_is_asked_where_it_answers() -> None:
    host = settings_of(DEPLOY / "kubernetes").host
    assert settings_of(DEPLOY).host == host
    for one in manifests():
        if one["kind"] == "StatefulSet" and one["metadata"]["name"] != "nats":
            pod = one["spec"]["template"]["spec"]
            assert pod["terminationGracePeriodSeconds"] >= host.shutdown_timeout_s + _TELEMETRY_S + 5
            (container,) = pod["containers"]
            for probe, path in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
                command = container[f"{probe}Probe"]["exec"]["command"]
                assert f"http://127.0.0.1:{host.control_port}/health/{path}'" in command[-1]
                compile(command[-1], probe, "exec")


def test_the_image_is_pinned_runs_as_nobody_in_particular_and_its_sources_are_there() -> None:
    steps = list(instructions(DOCKERFILE.read_text(encoding="utf-8")))
    images = [rest.split()[0] for name, rest in steps if name == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+(-slim)?-\w+", image) for image in images)
    last = steps[max(at for at, (name, _) in enumerate(steps) if name == "FROM") :]
    kept = dict(last)
    assert kept["USER"] == "10001"
    assert kept["ENTRYPOINT"] == '["echo-core"]'
    assert f"127.0.0.1:{settings_of(DEPLOY).host.control_port}/" in kept["HEALTHCHECK"]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for name, rest in steps:
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(line.startswith("!") and source.startswith(line[1:]) for line in ignored), source


def test_the_unit_is_one_that_systemd_takes_and_stops_later_than_the_host(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(stop_s) >= Settings().host.shutdown_timeout_s + _TELEMETRY_S + 5
    analyze = shutil.which("systemd-analyze") or missing("systemd-analyze", "apt-get install systemd")
    # It looks whether the program is there.
    program = Path(sys.executable).parent / "echo-core"
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/opt/echo-core/bin/echo-core", str(program)), encoding="utf-8")
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, complaints) == (0, [])
    command = re.findall(r"^ExecStart=\S+ (\S+)", text, re.MULTILINE)
    helped = subprocess.run([program, *command, "--help"], capture_output=True, text=True, check=True)
    assert "--plain" in helped.stdout
