"""launch/kubernetes.sh: the manifest of an Indexed Job with retries per index."""

import subprocess

import yaml

SETTINGS = {"SHARDS": 6, "IMAGE": "registry/elm:1", "CLAIM": "experts"}


def manifest(machine, *command, **settings):
    arguments = ("--dry_run", *command)
    done = machine.run("kubernetes.sh", *arguments, **(SETTINGS | settings))
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_the_job_is_indexed_with_retries_for_each_index(machine):
    job = manifest(machine, "elm_train", PARALLEL=2, RETRIES=3)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert (spec["completions"], spec["parallelism"]) == (6, 2)
    assert spec["backoffLimitPerIndex"] == 3
    assert "backoffLimit" not in spec
    assert spec["maxFailedIndexes"] == 6
    assert spec["podReplacementPolicy"] == "Failed"
    # What the API asks of jobs with retries per index and a policy for failures.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_evictions_and_saves_use_up_no_retry(machine):
    rules = manifest(machine, "elm_train")["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "Ignore"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert rules[1]["onExitCodes"] == {"operator": "In", "values": [130, 143]}


def test_a_pod_has_image_claim_accelerator_and_time_to_save(machine):
    job = manifest(
        machine,
        "elm_train",
        RESOURCE="google.com/tpu",
        DEVICES=4,
        NODE_SELECTOR="pool/type=tpu,zone=a",
        GRACE_SECS=60,
    )
    pod = job["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 60
    assert pod["nodeSelector"] == {"pool/type": "tpu", "zone": "a"}
    (container,) = pod["containers"]
    assert container["image"] == "registry/elm:1"
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert (mount["mountPath"], mount["name"]) == ("/runs", volume["name"])
    assert volume["persistentVolumeClaim"] == {"claimName": "experts"}


def test_a_pod_without_accelerator_asks_for_none(machine):
    job = manifest(machine, "elm_train", DEVICES=0)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "limits" not in container["resources"]


def test_the_command_of_a_pod_is_the_shard_of_its_index(machine):
    words = ("--gin.X=it's $HOME: {a}", '--gin.Y=["b"]')
    job = manifest(machine, "printf", "%s\n".strip() + "|", *words)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    done = subprocess.run(
        container["command"],
        env={"JOB_COMPLETION_INDEX": "5", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == "|".join((*words, "--gin.SHARD=5/6", ""))


def test_an_argument_of_two_lines_is_refused(machine):
    done = machine.run("kubernetes.sh", "--dry_run", "elm_train", "a\nb", **SETTINGS)
    assert done.returncode == 1
    assert "several lines" in done.stderr


def test_what_is_applied_is_what_the_dry_run_shows(machine):
    machine.add_program("kubectl", 'echo "$*"; cat > applied')
    done = machine.run("kubernetes.sh", "elm_train", NAMESPACE="lab", **SETTINGS)
    assert done.stdout == "--namespace lab apply -f -\n"
    applied = yaml.safe_load((machine.folder / "applied").read_text())
    assert applied == manifest(machine, "elm_train")
