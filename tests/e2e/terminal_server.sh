#!/bin/sh
# One terminal server: xrdp and its session manager, seeing a machine of their own.
#
# Started by desktop.py as process 1 of new mount, process and IPC namespaces, because both programs have
# the places of their configuration, pid files and sockets built in, and two of each are wanted on one machine.
# When process 1 ends, the kernel ends every session of this server, and its /run, /tmp and shared memory go.
#
# $1: a folder with etc (becomes /etc/xrdp) and log (becomes /var/log)
set -eu
mount --bind "$1/etc" /etc/xrdp
mount --bind "$1/log" /var/log
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
xrdp-sesman --nodaemon &
exec xrdp --nodaemon
