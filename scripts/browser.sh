#!/bin/sh
# Make sure that there is a browser for the tests of the sandbox's page: Chromium (or Chrome) and its driver.
#
# Installs them where that is possible, which is: as root on Debian or a relative of it. Prints where they are, one path
# a line; else says what to do and exits with 1.
set -eu
PATH="$PATH:/usr/sbin:/sbin" # apt-get wants them

found() { # the first of these commands that exists
    for name in "$@"; do
        if command -v "$name"; then return 0; fi
    done
    return 1
}

both() {
    found chromium chromium-browser google-chrome google-chrome-stable \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" && found chromedriver
}

if both; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    {
        echo "No browser for the tests of the sandbox's page: installing chromium and chromium-driver."
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium chromium-driver
    } >&2 || true
    if both; then exit 0; fi
fi
cat >&2 <<'TEXT'
The tests of the sandbox's page need a browser and its driver, and they could not be installed here.
  Debian:  sudo apt-get install chromium chromium-driver
  Ubuntu:  install Google Chrome and the chromedriver of the same version
  macOS:   brew install --cask google-chrome chromedriver
Or set SANDBOX_NO_BROWSER=1: these tests are then skipped.
TEXT
exit 1
