"""The workers of a client."""
from distributed import get_client

from .. import functional


def warmup(client=None, *dtypes):
    """fastbp.warmup on all workers: one of each machine compiles, while the others wait, and then find it all on its disk.

    client: a distributed.Client; None for the one that was made last. dtypes: float32 and float64 unless said. Raises TypeError
    for another dtype.
    """
    one_by_one(client_of(client), functional.warmup, *dtypes)


def client_of(client):
    """It, or the one that was made last; ValueError if there is none."""
    if client is not None:
        return client
    try:
        return get_client()
    except ValueError:
        raise ValueError("client is None and there is none, expected one as of distributed.Client(n_workers=2)") from None


def one_by_one(client, function, *arguments):
    """Call it on one worker of each machine, then on the others."""
    machines = {}
    for address in sorted(client.nthreads()):
        machines.setdefault(address.rpartition(":")[0], []).append(address)
    for workers in ([some[0] for some in machines.values()], [worker for some in machines.values() for worker in some[1:]]):
        client.gather([client.submit(function, *arguments, workers=[worker], pure=False) for worker in workers])
