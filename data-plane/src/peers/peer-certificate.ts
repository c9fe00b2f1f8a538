import { generateKeyPairSync, randomBytes, sign, X509Certificate } from 'node:crypto';

/** What a node shows other nodes in TLS: made at each start, never written down, known to them by the control plane. */
export interface PeerIdentity {
  /** X.509, DER in base64. */
  readonly certificate: string;
  readonly certificatePem: string;
  readonly privateKeyPem: string;
}

const tag = {
  integer: 0x02,
  bitString: 0x03,
  oid: 0x06,
  utf8: 0x0c,
  time: 0x18,
  sequence: 0x30,
  set: 0x31,
  version: 0xa0,
};
const commonName = Buffer.from([0x55, 0x04, 0x03]);
const ed25519 = Buffer.from([0x2b, 0x65, 0x70]);

/** A value in DER (X.690 §8.1), its length in as few bytes as will do. */
function der(type: number, ...contents: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(contents);
  if (content.length < 0x80) return Buffer.concat([Buffer.from([type, content.length]), content]);
  if (content.length < 0x100) return Buffer.concat([Buffer.from([type, 0x81, content.length]), content]);
  const length = Buffer.alloc(2);
  length.writeUInt16BE(content.length);
  return Buffer.concat([Buffer.from([type, 0x82]), length, content]);
}

/**
 * A fresh Ed25519 key with a certificate signed by itself (RFC 5280 §4.1, RFC 8410). It states no period worth the name:
 * what ends its use is that the control plane no longer names it.
 * @param name shown in logs; identifies nothing
 */
export function createPeerIdentity(name: string): PeerIdentity {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const algorithm = der(tag.sequence, der(tag.oid, ed25519));
  const serial = randomBytes(16);
  // A positive number in its shortest form.
  serial[0] = ((serial[0] ?? 0) & 0x3f) | 0x40;
  const subject = der(
    tag.sequence,
    der(tag.set, der(tag.sequence, der(tag.oid, commonName), der(tag.utf8, Buffer.from(name.slice(0, 64))))),
  );
  const period = der(
    tag.sequence,
    der(tag.time, Buffer.from('20200101000000Z')),
    der(tag.time, Buffer.from('99991231235959Z')),
  );
  const signed = der(
    tag.sequence,
    der(tag.version, der(tag.integer, Buffer.from([2]))),
    der(tag.integer, serial),
    algorithm,
    subject,
    period,
    subject,
    publicKey.export({ type: 'spki', format: 'der' }),
  );
  const signature = sign(null, signed, privateKey);
  const certificate = der(tag.sequence, signed, algorithm, der(tag.bitString, Buffer.from([0]), signature));
  return {
    certificate: certificate.toString('base64'),
    certificatePem: new X509Certificate(certificate).toString(),
    privateKeyPem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  };
}
