"""A browser to look at pages with."""

from __future__ import annotations

from browser_fixtures import browser as browser
from browser_fixtures import opened as opened
