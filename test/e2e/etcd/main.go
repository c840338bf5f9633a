// Command etcd is a stock etcd of one member on 127.0.0.1:2379, for clients
// with certificates only.
//
//	etcd DATA_DIR CERTIFICATE KEY CA
package main

import (
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: etcd DATA_DIR CERTIFICATE KEY CA")
	}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel = os.Args[1], "warn"
	cfg.ClientTLSInfo = transport.TLSInfo{
		CertFile: os.Args[2], KeyFile: os.Args[3], TrustedCAFile: os.Args[4], ClientCertAuth: true,
	}
	at := func(address string) []url.URL { return []url.URL{{Scheme: "https", Host: address}} }
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at("127.0.0.1:2379"), at("127.0.0.1:2379")
	peers := []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = peers, peers
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	member, err := embed.StartEtcd(cfg)
	if err != nil {
		log.Fatal(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	select {
	case <-stop:
		member.Close()
	case err := <-member.Err():
		log.Fatal(err)
	}
}
