"""What all tests share: the sandbox, as fixtures `sandbox` and `sandbox_s3`."""

pytest_plugins = ["piano_engage_sandbox.testing"]
