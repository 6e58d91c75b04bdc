// Address of the broker: its nodes, the login, the virtual host and the options. Pure; in the worker's forms.

import { unescape } from "node:querystring";

import { BillingConfiguration } from "./errors.js";

/** Nodes of one broker, and what a URL says about the way in. */
export interface Address {
  readonly isSecure: boolean;
  readonly nodes: readonly { readonly hostname: string; readonly port: number }[];
  readonly user: string;
  readonly password: string;
  readonly vhost: string;
  /** Options of RabbitMQ's own URIs: https://www.rabbitmq.com/docs/uri-query-parameters */
  readonly options: Partial<Record<string, string>>;
}

const NEXT_URL = /[,;]\s*(?=[a-z][a-z0-9+.-]*:\/\/)/i;
/** Scheme, login up to the first @, hosts, path and query. */
const FORM = /^([a-z][a-z0-9+.-]*):\/\/((?:[^/?#@]*@)?)([^/?#]*)([^?#@]*)(?:\?([^#@]*))?$/i;
const HOST = /^(?:\[([0-9a-f:.]+)\]|([^\s:[\]@]*))(?::(\d{0,5}))?$/i;
const PORT_MAX = 65_535;
const UNREADABLE =
  "can't be read: amqp://user:password@host:5672/vhost, and in user and password @ : / ? # % percent-encoded";
const DIFFERENT =
  "has addresses that differ in user, password, virtual host or scheme: name nodes of one broker";

const FILE = [/./, "a file"] as const;
/** Values that an option may have, and their description. */
const OPTIONS = new Map(
  Object.entries<readonly [RegExp, string]>({
    auth_mechanism: [/^(plain|external)$/i, "plain or external"],
    cacertfile: FILE,
    certfile: FILE,
    connection_timeout: [/^0*([1-9]\d{0,3}|[1-5]\d{4}|60000)$/, "a number of milliseconds from 1 to 60000"],
    heartbeat: [/^0*([1-9]\d?|[1-5]\d\d|600)$/, "a number of seconds from 1 to 600"],
    keyfile: FILE,
    server_name_indication: [/^(?!disable$)/, "the name in the broker's certificate"],
    verify: [/^verify_peer$/, "verify_peer: it would trust any server, name the CA of yours with cacertfile"],
  }),
);
const KNOWN = `the options are ${[...OPTIONS.keys()].join(", ")}`;
const WITHOUT_TLS = /^(heartbeat|connection_timeout|auth_mechanism=plain)/i;

/** Return the address in `text`, of one node or of several. The text of an error never holds the password. */
export function addressOf(text: string): Address {
  const urls = text.split(NEXT_URL).map((url) => piecesOf(url.trim()));
  const [{ scheme, login, path }] = urls as [Pieces];
  if (urls.some((url) => url.scheme !== scheme || url.login !== login || url.path !== path))
    refuse(DIFFERENT);
  if (!/^(amqps?|pyamqp)$/.test(scheme)) refuse("begins with another scheme than amqp:// or amqps://");
  const isSecure = scheme === "amqps";
  const nodes = urls.flatMap(({ hosts }) => hosts.map((host) => nodeOf(host, isSecure ? 5671 : 5672)));
  const [, user = "", password = ""] = /^([^:]*):?(.*)@$/s.exec(login) ?? [];
  return {
    isSecure,
    nodes: [...new Map(nodes.map((node) => [`${node.hostname} ${node.port}`, node])).values()], // each once
    user: decoded(user) || "guest",
    password: decoded(password) || "guest",
    vhost: decoded(path.slice(1)) || "/",
    options: optionsOf(urls, isSecure),
  };
}

type Pieces = ReturnType<typeof piecesOf>;

function piecesOf(url: string) {
  const [, scheme = "", login = "", list = "", path = "", query = ""] = FORM.exec(url) ?? refuse(UNREADABLE);
  // Each of the other hosts may repeat the login.
  const [first = "", ...others] = list.trim().split(/\s*[,;]\s*/);
  const hosts = [first, ...others.map((host) => (host.startsWith(login) ? host.slice(login.length) : host))];
  // A password that was taken for a port ends here, too.
  if (/[[\]]/.test(login) || !hosts.every((host) => HOST.test(host))) refuse(UNREADABLE);
  if (hosts.length > 1 && hosts.includes("")) refuse("names an empty address: remove a comma");
  return { scheme, login, hosts, path, query };
}

function nodeOf(host: string, defaultPort: number): Address["nodes"][number] {
  const [, ipv6, name, text] = HOST.exec(host) ?? [];
  const port = Number(text || defaultPort);
  if (port < 1 || port > PORT_MAX) refuse(UNREADABLE);
  return { hostname: decoded(ipv6 || name || "localhost"), port };
}

function optionsOf(urls: readonly Pieces[], isSecure: boolean): Address["options"] {
  const options: Partial<Record<string, string>> = {};
  for (const [name, value] of urls.flatMap(({ query }) => [...new URLSearchParams(`?${query}`)])) {
    const [form, what] =
      OPTIONS.get(name) ?? refuse(`has an unknown option '${name.slice(0, 40)}': ${KNOWN}`);
    if (value === "") refuse(`gives ${name} no value: leave it out, or fill it in`);
    if ((options[name] ??= value) !== value) refuse(`gives ${name} two values: leave one of them`);
    if (!form.test(value)) refuse(`has a ${name} that is not ${what}`);
    if (!isSecure && !WITHOUT_TLS.test(`${name}=${value}`)) refuse(`has ${name} without TLS: write amqps://`);
  }
  if (options.keyfile && !options.certfile) refuse("has keyfile without certfile: name both");
  return options;
}

/** Return text without its percent-encoding; a % that encodes nothing stays. */
function decoded(text: string): string {
  return text.replace(/(?:%[0-9a-f]{2})+/gi, unescape);
}

function refuse(problem: string): never {
  throw new BillingConfiguration(`the broker's URL ${problem}`);
}
