"""The checks: unit, contract, model, integration and acceptance tests."""
