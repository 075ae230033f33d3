"""One cluster of several engines over a shared store: who serves which shard, and how a request reaches it.

Safety does not rest on anything here: that at most one engine writes to a shard is the affair of its log
(docs/specs/SHARED_STORE.md). Here it is decided who should, and requests are brought there.
"""
