"""`World`: the processes that train one run together.

torchrun starts the processes and tells each its rank in environment variables; `joined` reads them
and connects the processes. No other module reads these variables or calls torch.distributed. A run
in a single process has the world `ALONE`, whose methods do nothing.

Two groups connect the processes. What they tell each other (counts, decisions, rows of the record)
travels between CPUs, through gloo. Gradients and metrics travel between devices, through NCCL on
CUDA. A process that ends breaks the connection, and the others then end with a `PeerError` that
says why: what ended the first one is left in the store of the rendezvous.
"""

from nectargan.distributed.joining import joined
from nectargan.distributed.world import ALONE, World

__all__ = ["ALONE", "World", "joined"]
