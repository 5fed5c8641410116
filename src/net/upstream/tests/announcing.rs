//! The PROXY protocol's header: first of all, and only where it is asked for.

use super::*;

fn announcing(host: &str, port: u16, tls: TlsMode, lab: &Lab) -> Connector {
    let mut upstream = upstream(host, port, tls, Some(lab.ca.path().to_owned()));
    upstream.proxy_protocol = ProxyProtocol::V2;
    Connector::new(&upstream, &TIMEOUTS, None).unwrap()
}

fn origin() -> Origin {
    Origin { client: "192.0.2.1:4660".parse().unwrap(), listener: "198.51.100.2:110".parse().unwrap(), tls: None }
}

const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x12\x34\0\x6e";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[tokio::test]
async fn the_header_goes_ahead_of_tls() {
    let lab = Lab::new();
    let config = lab.good();
    let (address, server) = serve(async move |mut tcp| {
        hears(&mut tcp, HEADER).await;
        accept(config, tcp).await.is_ok()
    })
    .await;
    let connector = announcing("127.0.0.1", address.port(), TlsMode::Implicit, &lab);
    let connected = connector.connect(&origin()).await.unwrap();
    assert!(server.await.unwrap());
    assert_eq!(connected.tls.unwrap().trust.as_deref(), Some("ca_file"));
    assert!(connected.dialling + connected.securing < LIMIT);
}

#[tokio::test]
async fn the_header_goes_ahead_of_stls() {
    let lab = Lab::new();
    let config = lab.good();
    let (address, server) = serve(async move |mut tcp| {
        hears(&mut tcp, HEADER).await;
        tcp.write_all(b"+OK\r\n").await.unwrap();
        hears(&mut tcp, b"STLS\r\n").await;
        tcp.write_all(b"+OK\r\n").await.unwrap();
        accept(config, tcp).await.is_ok()
    })
    .await;
    let connector = announcing("127.0.0.1", address.port(), TlsMode::Stls, &lab);
    assert!(connector.connect(&origin()).await.is_ok());
    assert!(server.await.unwrap());
}

#[tokio::test]
async fn a_test_of_the_server_is_nobodys_connection() {
    let lab = Lab::new();
    let (address, server) = serve(async |mut tcp| {
        hears(&mut tcp, LOCAL).await;
        tcp.write_all(b"+OK\r\n").await.unwrap();
        hears(&mut tcp, b"QUIT\r\n").await;
        rest(&mut tcp).await
    })
    .await;
    let report = announcing("127.0.0.1", address.port(), TlsMode::Plain, &lab).probe().await.unwrap();
    assert_eq!(report.greeting, "+OK");
    assert_eq!(server.await.unwrap(), b"");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_silent_may_not_expect_it() {
    let lab = Lab::new();
    let (address, server) = serve(async |mut tcp| rest(&mut tcp).await).await;
    let error = announcing("127.0.0.1", address.port(), TlsMode::Plain, &lab).probe().await.unwrap_err();
    assert!(error.hint().unwrap().contains("expects the PROXY protocol"), "{error}");
    assert_eq!(server.await.unwrap(), LOCAL);
}
