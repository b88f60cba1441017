"""The workers of a client, and the compilation of kernels on them."""
from distributed import Client, get_client
from numpy.typing import DTypeLike

from .. import functional


def warmup(client: Client | None = None, *dtypes: DTypeLike) -> None:
    """Call fastbp.warmup on all workers. One worker of each machine compiles; the others then find it all on its disk.

    client: a distributed.Client; None for the one that was made last.
    dtypes: float32 and float64 unless given. Raises TypeError for another one.
    """
    run_one_first(client_of(client), functional.warmup, *dtypes)


def client_of(client: Client | None) -> Client:
    """Return the client, or for None the one that was made last. Raises ValueError if there is none."""
    if client is not None:
        return client
    try:
        return get_client()
    except ValueError:
        raise ValueError("client is None and there is none, expected one as of distributed.Client(n_workers=2)") from None


def run_one_first(client, function, *arguments):
    """Call a function on one worker of each machine, and when that is done on all others."""
    machines = {}
    for address in sorted(client.nthreads()):
        machines.setdefault(address.rpartition(":")[0], []).append(address)
    for workers in ([some[0] for some in machines.values()], [worker for some in machines.values() for worker in some[1:]]):
        client.gather([client.submit(function, *arguments, workers=[worker], pure=False) for worker in workers])
