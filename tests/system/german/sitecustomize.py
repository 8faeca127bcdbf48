"""Read by each process of a cluster: a host that has set its locale, in which a half is 0,5."""

import locale
import os

locale.setlocale(locale.LC_ALL, "")
if locale.localeconv()["decimal_point"] != ",":
    os._exit(1)
