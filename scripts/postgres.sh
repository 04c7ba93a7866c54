#!/bin/sh
# Make sure that there is a PostgreSQL for the tests of the actions' notes, which start one of their own.
#
# Installs Debian's package where that is possible, which is: as root on Debian or a relative of it, and without the
# cluster that the package would make and start by itself. Prints where the programs are; else says what to do and exits
# with 1.
set -eu
PATH="$PATH:/usr/sbin:/sbin" # apt-get wants them

there() {
    ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null
}

if there; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    {
        echo "No PostgreSQL for the tests of the actions' notes: installing postgresql."
        apt-get update -q
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -q -y --no-install-recommends postgresql-common
        sed -i 's/^#create_main_cluster = true/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
        apt-get install -q -y --no-install-recommends postgresql
    } >&2 || true
    if there; then exit 0; fi
fi
cat >&2 <<'TEXT'
Some tests of the actions' notes need PostgreSQL, and it could not be installed here; they are skipped.
  Debian, Ubuntu:  sudo apt-get install postgresql
TEXT
exit 1
