#!/bin/sh
# Fetches the packages of packages.txt with apt, as any account, and unpacks them below the folder given. What is there already is left alone.
# Ends with 3 when Debian's archive can't be reached.
set -eu
list=$(dirname "$0")/packages.txt
mkdir -p "$1"
rm -f "$1/complete"
root=$(cd "$1" && pwd)
command -v apt-get >/dev/null 2>&1 || { echo "test-documents: needs apt-get" >&2; exit 3; }

mkdir -p "$root/apt/lists/partial" "$root/apt/cache/archives/partial" "$root/files" "$root/packages"
for kind in deb deb-src; do
	echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main"
done >"$root/apt/sources.list"
apt() {
	apt-get -q -o Dir::Etc::SourceList="$root/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$root/apt/lists" \
		-o Dir::Cache="$root/apt/cache" -o APT::Sandbox::User= -o APT::Get::Only-Source=true "$@"
}

updated=
grep -v '^#' "$list" | while read -r kind name version; do
	[ -e "$root/files/$name/.version-$version" ] && continue
	if [ -z "$updated" ]; then
		apt update >/dev/null 2>"$root/apt/errors" || { cat "$root/apt/errors" >&2; exit 3; }
		updated=yes
	fi
	rm -rf "$root/files/$name" "$root/packages/$name"
	mkdir -p "$root/files/$name" "$root/packages/$name"
	if [ "$kind" = deb ]; then
		( cd "$root/packages/$name" && apt download "$name=$version" >/dev/null && dpkg-deb -x ./*.deb "$root/files/$name" )
	else
		( cd "$root/packages/$name" && apt source --download-only "$name=$version" >/dev/null &&
			tar -C "$root/files/$name" --strip-components 1 -xf ./*.orig.tar.* )
	fi || { echo "test-documents: $name $version can't be fetched" >&2; exit 3; }
	find "$root/files/$name" -name '*.pdf.gz' -exec gunzip -f {} +
	touch "$root/files/$name/.version-$version"
done
touch "$root/complete"
