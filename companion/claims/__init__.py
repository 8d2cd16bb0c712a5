"""State what the prose is about to say, and fail where it isn't so.

A chapter's cell calls `claim` with what it has just measured. There are three kinds, by what the
sentence says: a **theory** names the value expected and how far off theory allows it to be; an
**estimate** is a mean over seeds with its interval, and nothing about it is set by hand; an
**order** says on which side of a bound the whole interval lies. The call prints one line, which is
stored with the notebook, compared when the notebook is run again, linked from the prose and listed
in the ledger; `Claim.parse` reads the line back. Identities are no claims: they are `check`.

Used in every chapter; listed in the chapter `claims`. What a cell calls stands in ``stating.py``,
what reads claims back from the pages in ``records.py``, what runs the pages in ``notebooks.py``.

>>> claim("he-preserves-rms", 0.998, expect=1.0, within=0.02, source="He et al. 2015, eq. 10")
✓ he-preserves-rms: 0.998 (expected 1.00 ± 0.02; He et al. 2015, eq. 10)
>>> claim("accuracy", [96.1, 95.7, 96.4, 95.9], unit="%")
✓ accuracy: 96.0 ± 0.5 % over 4 seeds (estimate)
"""

from companion.claims.stating import VARIES, Claim, ClaimError, check, claim, interval

__all__ = ["VARIES", "Claim", "ClaimError", "check", "claim", "interval"]
