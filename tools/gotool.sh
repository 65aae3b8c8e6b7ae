#!/usr/bin/env bash
# Links the Go tools that are named, at the versions in tools/go.mod, as .bin/NAME. Each is built once for a version
# of it and of Go, in the cache.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wattle
mkdir -p "$cache" "$here/../.bin"

for name; do
	read -r path version < <(cd "$here" && go list -f '{{if eq .Name "main"}}{{.ImportPath}} {{.Module.Version}}{{end}}' tool | grep "/$name ") ||
		{ echo "$name: tools/go.mod has no such tool" >&2; exit 1; }
	file=$cache/$name-$version-$(go env GOVERSION)
	if [[ ! -x $file ]]; then
		echo "$name: building $version"
		(cd "$here" && CGO_ENABLED=0 go build -trimpath -o "$file.$$" "$path")
		mv -f "$file.$$" "$file"
	fi
	ln -s "$file" "$here/../.bin/$name.$$"
	mv -Tf "$here/../.bin/$name.$$" "$here/../.bin/$name"
	echo "$name: .bin/$name is $file"
done
