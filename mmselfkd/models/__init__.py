"""Parts of models that the hosts lack."""
