#!/bin/sh
# Puts redis-server and redis-cli into a directory, as links. Usage: redis.sh DIR. Debian's redis-tools has the server's
# program, too, under another name; the package redis-server would start one on this machine.
set -eu
server=/usr/bin/redis-check-rdb
[ -x $server ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq redis-tools >/dev/null; }
ln -s $server "$1/redis-server"
ln -s /usr/bin/redis-cli "$1/redis-cli"
