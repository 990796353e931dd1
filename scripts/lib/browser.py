"""A browser for scripts, as far as the console and the customers' pages need one."""

import http.cookiejar
import urllib.error
import urllib.parse
import urllib.request


class Browser:
    """Keeps cookies, and signs in by the form of the page."""

    def __init__(self, base):
        self.base = base
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(cookies)

    def get(self, path):
        request = urllib.request.Request(self.base + path, headers={"Accept": "text/html"})
        try:
            with self.opener.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def sign_in(self, path, email, password):
        csrf = self.get(path)[1].split('name="csrf" value="')[1].split('"')[0]
        form = urllib.parse.urlencode({"csrf": csrf, "email": email, "password": password})
        with self.opener.open(urllib.request.Request(self.base + path, form.encode()), timeout=60) as answer:
            assert "sign-in" not in answer.url, answer.url
