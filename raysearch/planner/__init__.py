"""The planner: a run in virtual time, before it costs anything.

The session, policies, scheduler, dispatcher, engine and store are the real ones; replicas take as long as was measured
or said, states are as large as real ones, and rewards are drawn.
"""
