"""Two profiles of hypothesis: `fast` for every run, `deep` (HYPOTHESIS_PROFILE=deep) for the night."""

import os

from hypothesis import HealthCheck, settings

# No check of how long examples take to make: on a busy machine it fails what it happens to meet.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", _UNTIMED, max_examples=100)
settings.register_profile("deep", _UNTIMED, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
