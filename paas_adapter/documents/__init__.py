"""Documents of the PaaS: what people write, read into typed values. Never: what becomes of them (paas_adapter/mapping), files, network."""
