"""Web pages to training data: screenshots at the sizes of phone, tablet and desktop, and questions about them.

builder.py   what to make and for which pages: `WebSettings`, `WebBuilder`
browser.py   the Chromium of a process            capture.py   a page to screenshots and scans (start.js, page.js)
screen.py    a scan to typed elements and texts   icons.py     what an icon is called
tasks.py     a screen to a conversation           wordings.py  how the questions are put
"""

from .builder import WebBuilder, WebSettings
from .capture import VIEWPORTS
from .tasks import TASKS

__all__ = ["TASKS", "VIEWPORTS", "WebBuilder", "WebSettings"]
