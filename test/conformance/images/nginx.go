package images

import (
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	suite "k8s.io/kubernetes/test/utils/image"
)

// nginxConfig listens and logs as the original does.
const nginxConfig = `user nginx;
worker_processes auto;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;

events {
	worker_connections 1024;
}

http {
	include /etc/nginx/mime.types;
	default_type application/octet-stream;
	access_log /var/log/nginx/access.log combined;
	sendfile on;
	keepalive_timeout 65;
	include /etc/nginx/conf.d/*.conf;
}
`

const nginxSite = `server {
	listen 80;
	listen [::]:80;
	server_name localhost;
	location / {
		root /usr/share/nginx/html;
		index index.html index.htm;
	}
}
`

// nginxEntrypoint leaves the IPv6 socket out on hosts without IPv6, where nginx would not start.
const nginxEntrypoint = `#!/bin/sh
set -e
if [ ! -e /proc/net/if_inet6 ] && [ -w /etc/nginx/conf.d/default.conf ]; then
	sed -i '/listen \[::\]/d' /etc/nginx/conf.d/default.conf
fi
exec "$@"
`

// makeNginx makes two versions of the web server; the program is Debian's in both.
func makeNginx(ctx context.Context, w *workshop) ([]v1.Image, error) {
	t, root, err := w.system(ctx)
	if err != nil {
		return nil, err
	}
	if err := root.install(t, "/usr/sbin/nginx", "/usr/bin/curl", "/usr/bin/getent"); err != nil {
		return nil, err
	}
	types, err := root.resolve("/etc/nginx/mime.types")
	if err != nil {
		return nil, err
	}
	if err := t.copy("etc/nginx/mime.types", types); err != nil {
		return nil, err
	}
	page, err := root.resolve("/usr/share/nginx/html/index.html")
	if err != nil {
		return nil, err
	}
	if err := t.copy("usr/share/nginx/html/index.html", page); err != nil {
		return nil, err
	}
	t.text("etc/nginx/nginx.conf", nginxConfig, 0o644)
	t.text("etc/nginx/conf.d/default.conf", nginxSite, 0o644)
	t.text("docker-entrypoint.sh", nginxEntrypoint, 0o755)
	t.dirs("var/log/nginx", "var/lib/nginx", "var/cache/nginx")
	t.link("var/log/nginx/access.log", "/dev/stdout")
	t.link("var/log/nginx/error.log", "/dev/stderr")
	t.account("etc/passwd", "nginx:x:101:101:nginx:/var/cache/nginx:/sbin/nologin")
	t.account("etc/group", "nginx:x:101:")
	layer, err := t.layer()
	if err != nil {
		return nil, err
	}
	config := v1.Config{
		Entrypoint: []string{"/docker-entrypoint.sh"}, Cmd: []string{"nginx", "-g", "daemon off;"},
		StopSignal: "SIGQUIT", ExposedPorts: ports("80/tcp"),
	}
	var made []v1.Image
	for _, id := range []suite.ImageID{suite.Nginx, suite.NginxNew} {
		if made, err = appendImage(made, config, tag(suite.GetE2EImage(id)), layer); err != nil {
			return nil, err
		}
	}
	return made, nil
}
