"""One class a noun: validation, then one transaction. No gRPC or protobuf type here, and no decision about hosts.

Every method raises classes of moorage/errors.py and changes nothing when it does. Callers are authorised before they come here;
`Caller` is passed on only where what is shown, or recorded, depends on who asks.
"""
