"""The medium joins a wireless network, through two radios that the kernel plays (mac80211_hwsim).

hostapd is the access point, in a namespace of its own; it and ``iw`` are copied into the machine. What the rescue
program writes for iwd and systemd-networkd does the rest. A real card, and its firmware, are not proven by that.
"""

import io
import re
import tarfile
from pathlib import Path

import pytest

from stillframe.testing.built_media import BuiltMedium, build_medium
from stillframe.testing.medium_machine import RunningMedium, start_medium
from stillframe.testing.tools import run_tool

pytestmark = [pytest.mark.root, pytest.mark.vm]
LIMIT_S = 1200
NETWORK, PASSWORD = "my café net", "correct horse"
ACCESS_POINT = f"""\
set -e
ours() {{ LD_LIBRARY_PATH=/opt/programs "$@"; }}
systemctl stop iwd
modprobe mac80211_hwsim radios=2
udevadm settle
ip netns add ap
ours /opt/programs/iw phy phy1 set netns name ap
ip -n ap link set lo up
cat > /run/ap.conf <<'END'
interface=wlan1
driver=nl80211
ssid2=P"{NETWORK}"
utf8_ssid=1
hw_mode=g
channel=1
wpa=2
wpa_key_mgmt=WPA-PSK
rsn_pairwise=CCMP
wpa_passphrase={PASSWORD}
END
ours ip netns exec ap /opt/programs/hostapd -B /run/ap.conf
ip -n ap addr add 10.77.0.1/24 dev wlan1
cat > /run/dhcp.conf <<'END'
start 10.77.0.10
end 10.77.0.20
interface wlan1
option subnet 255.255.255.0
option router 10.77.0.1
lease_file /run/leases
pidfile /run/dhcp.pid
END
touch /run/leases
ip netns exec ap busybox udhcpd /run/dhcp.conf
systemctl start iwd
echo ready
"""
HEARD = (
    "/stillframe/venv/bin/python3 -c 'from stillframe.host.wireless_scan import find_networks\n"
    "for one in find_networks(lambda: None): print(one.name, one.kind, one.strength)' 2>&1"
)
ANSWERS = """\
[network]
wifi = "{network}"
wifi-password = "{password}"
wait = 90
[repository]
where = "smb://kim@10.77.0.1/backups"
[secret]
share-password = "x"
[restore]
"""


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> BuiltMedium:
    return build_medium(tmp_path_factory.mktemp("iso"), "--wifi")


def test_what_a_wireless_network_needs_is_on_the_medium(medium: BuiltMedium, tmp_path: Path) -> None:
    run_tool(
        "xorriso",
        "-osirrox",
        "on",
        "-indev",
        str(medium.iso),
        "-extract",
        "/live/filesystem.squashfs",
        f"{tmp_path}/fs",
    )
    listed = run_tool("unsquashfs", "-l", f"{tmp_path}/fs")
    (tmp_path / "fs").unlink()
    for path in (
        "usr/libexec/iwd", "usr/bin/iwctl", "etc/systemd/system/multi-user.target.wants/iwd.service",
        "usr/lib/firmware/regulatory.db", "etc/systemd/network/80-wireless.network",
    ):  # fmt: skip
        assert f"squashfs-root/{path}\n" in listed, path
    has_firmware = "usr/lib/firmware/iwlwifi-" in listed
    said = [notice["code"] for notice in medium.result.get("notices", [])]
    assert ("no-wireless-firmware" in said) == (not has_firmware)
    if not has_firmware:
        assert medium.iso.stat().st_size < 450 << 20


def programs() -> bytes:
    """hostapd and iw with what they are linked with, as a tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", dereference=True) as tar:
        for program in ("/usr/sbin/hostapd", "/usr/sbin/iw"):
            tar.add(program, arcname=Path(program).name)
            for library in re.findall(r"=> (/\S+)", run_tool("ldd", program)):
                if "/libc." not in library and "/libm." not in library:
                    tar.add(library, arcname=Path(library).name)
    return packed.getvalue()


def carried_out(running: RunningMedium, password: str) -> str:
    answers = ANSWERS.format(network=NETWORK, password=password)
    return running.ask(
        "cat > /run/answers.toml; stillframe rescue start --answers /run/answers.toml", limit_s=LIMIT_S,
        given=answers.encode(),
    )  # fmt: skip


def test_the_medium_joins_a_wireless_network_as_the_answers_say(
    medium: BuiltMedium, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("m")
    with start_medium(medium.machine(folder)) as running:
        running.ask("mkdir -p /opt/programs; tar -xzf - -C /opt/programs", limit_s=LIMIT_S, given=programs())
        said = running.ask(ACCESS_POINT, limit_s=LIMIT_S)
        assert said.strip().endswith("ready"), said
        heard = running.ask(HEARD, limit_s=LIMIT_S)
        print(heard)  # noqa: T201 - pytest -s shows it
        assert f"{NETWORK} psk" in heard
        wrong = carried_out(running, "another horse")
        print(wrong)  # noqa: T201
        assert f"no connection to the wireless network {NETWORK}" in wrong
        right = carried_out(running, PASSWORD)
        print(right)  # noqa: T201
        assert "10.77.0.1 is there, but serves no SMB at port 445" in right
        state = running.ask(
            "networkctl --no-pager status wlan0; iwctl station wlan0 show; ls -la /var/lib/iwd; "
            "ping -c 3 -I wlan0 10.77.0.1; cat /run/leases | wc -c",
            limit_s=LIMIT_S,
        )
        print(state)  # noqa: T201
    assert "0% packet loss" in state
    assert re.search(r"Connected network\s+my café net", state)
    assert re.search(r"Security\s+WPA2-Personal", state)
    assert re.search(r"-rw------- .* =[0-9a-f]+\.psk", state)
