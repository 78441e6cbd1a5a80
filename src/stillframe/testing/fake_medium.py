"""A stand-in for the rescue medium: a Debian that does what the answers in its firmware say, and nothing more.

Answers: "what does a rehearsal meet, where no medium was built?" It is the base of ``debian_guest`` with a job: it
finds the stick by its serial number, restores with the product's own command, says the verdict on the serial line, and
switches itself off. The real medium finds repositories by their id on any disk; this one does not.
"""

from pathlib import Path
from typing import Final

from stillframe.host.qemu import DirectKernel, FileDrive
from stillframe.rescue.trying.rehearsing import Medium
from stillframe.testing.debian_guest import base, make_job

_SCRIPT: Final = r"""
modprobe qemu_fw_cfg
mkdir -p /stick
mount -t vfat -o ro /dev/disk/by-id/virtio-repository-part1 /stick
cat > /tmp/rescue.py <<'PYTHON'
import json, subprocess, sys, tomllib
raw = open("/sys/firmware/qemu_fw_cfg/by_name/opt/stillframe/answers/raw").read()
answers = tomllib.loads(raw)
folder = subprocess.run(["find", "/stick", "-name", "stillframe.json"], capture_output=True, text=True).stdout
folder = folder.split("\n")[0].rpartition("/")[0]
assert json.load(open(folder + "/stillframe.json"))["id"] == answers["repository"]["id"]
restore, serial = answers["restore"], answers["restore"]["target"]["serial"]
target = subprocess.run(["sh", "-c", f"ls /dev/disk/by-id/*{serial} | head -1"], capture_output=True, text=True).stdout
password = answers.get("secret", {}).get("password", "")
environment = {"STILLFRAME_PASSWORD": password, "PATH": "/usr/local/bin:/usr/bin:/usr/sbin"}
command = ["stillframe", "restore", restore["image"], target.strip(), "--repo", folder, "--yes", "--json"]
done = subprocess.run(command, capture_output=True, text=True, env=environment)
print(done.stdout, done.stderr)
last = json.loads(done.stdout.strip().splitlines()[-1])
verdict = {"type": "verdict", "verb": "restore", "ok": done.returncode == 0, "exit_code": done.returncode,
           "message": last.get("message", ""), "hint": last.get("hint", "")}
open(answers["after"]["report"], "w").write(json.dumps(verdict) + "\n")
assert answers["after"]["then"] == "poweroff"
PYTHON
python3 /tmp/rescue.py
"""


def make_fake_medium(folder: Path) -> Medium:
    """A medium; its job's disk is made in an empty folder, and holds what it said afterwards (``/output``)."""
    made = base()
    job = make_job(folder, _SCRIPT)
    line = "root=/dev/disk/by-id/virtio-base rw console=ttyS0,115200 quiet systemd.show_status=0"
    return Medium(
        path=str(made.disk), kernel=DirectKernel(kernel=str(made.kernel), initrd=str(made.initrd), line=line),
        files=(
            FileDrive(path=str(made.disk), use="throw-away", serial="base"),
            FileDrive(path=str(job), use="target", serial="job"),
        ),
    )  # fmt: skip
