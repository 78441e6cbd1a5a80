"""Who runs a job: this machine and this process, in the words of the repository."""

from stillframe.host.machine import ProcessIdentity, machine, process_alive, this_process
from stillframe.repo.records import MachineName
from stillframe.repo.session import Owner


def this_owner() -> Owner:
    """The owner of sessions that this process begins."""
    here, process = machine(), this_process()
    return Owner(
        machine=MachineName(id=here.id, name=here.name[:200]),
        boot_id=here.boot_id,
        process=f"{process.pid}/{process.start_time}",
        is_alive=_is_alive,
    )


def _is_alive(boot_id: str, process: str) -> bool:
    pid, _, start = process.partition("/")
    if not (pid.isdecimal() and start.isdecimal()):
        return True
    return process_alive(ProcessIdentity(boot_id=boot_id, pid=int(pid), start_time=int(start)))
