"""The bundled demo: a support-triage workflow on real tickets, trained without a paid model."""
