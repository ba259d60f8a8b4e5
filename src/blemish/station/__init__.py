"""The inspection station: pictures come in by hot folder or HTTP, verdicts go out, and none is lost.

The folder is the queue, the ledger the memory, the commit the verdict: docs/station/engine-room.md.
"""
