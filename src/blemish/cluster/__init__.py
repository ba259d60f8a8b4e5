"""Many machines: learning, inspecting and the ledger on a Ray cluster, with the figures of one machine.

Ray schedules, retries and moves objects; what is here says which pieces there are and puts them together in order.
"""
