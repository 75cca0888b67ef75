"""Who may do what: keys, join tokens, roles, the permission table, policy and quota.

Pure: values in, values or errors out. No grpc, no store, no clock; records are kept by the services, times are
arguments.
"""
