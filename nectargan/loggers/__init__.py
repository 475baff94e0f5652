"""The sinks: they read the ledger of a run and send it to TensorBoard and MLflow."""
