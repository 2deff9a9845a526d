"""Run scripts in a page, in a browser without a window. Needs PySide6 alone.

python page_browser.py PAGE.html [SCREENSHOT.png] < scripts.json

Evaluates a JSON list of expressions in their order and prints a JSON object: results,
console (what the page logged, errors included), requests (what it asked for besides
itself and data URIs).
"""

import json
import os
import sys

from PySide6.QtCore import QTimer, QUrl
from PySide6.QtWebEngineCore import (
    QWebEnginePage,
    QWebEngineUrlRequestInterceptor,
)
from PySide6.QtWebEngineWidgets import QWebEngineView
from PySide6.QtWidgets import QApplication


class Interceptor(QWebEngineUrlRequestInterceptor):
    """Notes every request, and lets none but the page itself pass."""

    def __init__(self, page_url):
        super().__init__()
        self.page_url, self.seen = page_url, []

    def interceptRequest(self, info):  # noqa: N802
        url = info.requestUrl()
        if url == self.page_url or url.scheme() == 'data':
            return
        self.seen.append(url.toString())
        info.block(True)


class Page(QWebEnginePage):
    """Keeps what is logged."""

    def __init__(self, parent):
        super().__init__(parent)
        self.logged = []

    def javaScriptConsoleMessage(self, level, message, line, source):  # noqa: N802
        self.logged.append(f'{level.name}: {message} (line {line})')


def main() -> None:
    os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')
    os.environ['QTWEBENGINE_CHROMIUM_FLAGS'] = '--no-sandbox --disable-gpu'
    scripts = json.load(sys.stdin)
    app = QApplication(sys.argv[:1])
    url = QUrl.fromLocalFile(os.path.abspath(sys.argv[1]))
    view = QWebEngineView()
    page = Page(view)
    interceptor = Interceptor(url)
    page.setUrlRequestInterceptor(interceptor)
    view.setPage(page)
    view.resize(1180, 860)
    view.show()
    results = []

    def finish():
        if len(sys.argv) > 2:
            view.grab().save(sys.argv[2])
        print(
            json.dumps(
                dict(results=results, console=page.logged, requests=interceptor.seen)
            )
        )
        app.quit()

    def step(result=None, first=False):
        if not first:
            results.append(json.loads(result))
        if len(results) < len(scripts):
            script = f'JSON.stringify(({scripts[len(results)]}) ?? null)'
            page.runJavaScript(script, 0, step)
        else:
            # Time to paint, and for a request to be seen that a script began.
            QTimer.singleShot(600, finish)

    page.loadFinished.connect(lambda ok: step(first=True) if ok else app.exit(3))
    page.load(url)
    sys.exit(app.exec())


if __name__ == '__main__':
    main()
