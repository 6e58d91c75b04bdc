"""The TypeScript client with a broker that wants certificates: TLS on both sides, and the login EXTERNAL."""

import pytest

from tests.support.certificates import Authority, secure_rabbitmq
from tests.typescript.npm_package import run
from worker.addresses import Certificates, with_certificates
from worker.broker import BILLING, open_link

USER = "app"

PROGRAM = """
import { BillingClient } from "@billing-worker/client";
const [url] = process.argv.slice(1);
const client = new BillingClient({ url, timeoutMs: 30_000 });
const command = { type: "account.open", referenceId: "open", userId: "ada", tier: "free" };
console.log(await client.publish(command).then(() => "confirmed", (error) => error.name));
await client.close();
"""


@pytest.mark.slow  # the short form is the proxy with TLS of addresses.test.ts
@pytest.mark.usefixtures("compiled")
def test_certificate_of_the_workers_url_is_the_login_of_the_client() -> None:
    with Authority.made() as authority, secure_rabbitmq(authority) as rabbitmq:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        rabbitmq.server.management.create_user(USER, "unused-Pa55", "/", **everything)
        link = open_link(rabbitmq.server.address.url())
        link.declare(BILLING)
        link.close()
        own = authority.issue("client", USER)
        for files, outcome in ((own, "confirmed"), (Certificates(own.ca), "BillingConfiguration")):
            url = with_certificates(f"{rabbitmq.url(USER)}?auth_mechanism=external", files)
            assert run("node", "--input-type=module", "-e", PROGRAM, url) == f"{outcome}\n"
