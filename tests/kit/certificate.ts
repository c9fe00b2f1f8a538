/** A self-signed certificate, made anew for each run, so that no private key lies in the repository. */
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface TestCertificate {
  readonly certFile: string;
  readonly keyFile: string;
  /** PEM. */
  readonly certificate: string;
}

/** DER (X.690): tag, length, content. */
function der(tag: number, ...contents: readonly Buffer[]): Buffer {
  const content = Buffer.concat(contents);
  const { length } = content;
  const size = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}

const [integerTag, bitStringTag, octetStringTag, utf8Tag, utcTimeTag] = [0x02, 0x03, 0x04, 0x0c, 0x17];
const [sequenceTag, setTag, explicit0, explicit3] = [0x30, 0x31, 0xa0, 0xa3];
const [dnsName, ipAddress] = [0x82, 0x87];
const objectId = (hex: string): Buffer => der(0x06, Buffer.from(hex, 'hex'));
const ecdsaWithSha256 = der(sequenceTag, objectId('2a8648ce3d040302'));
const commonName = objectId('550403');
const [subjectAltName, basicConstraints] = [objectId('551d11'), objectId('551d13')];
const trueValue = Buffer.from([0x01, 0x01, 0xff]);

function utcTime(at: Date): Buffer {
  const digits = at.toISOString().replace(/\D/g, '').slice(2, 14);
  return der(utcTimeTag, Buffer.from(`${digits}Z`));
}

/** For `localhost` and 127.0.0.1, valid for a day around `nowMs`; its files lie in `directory` (RFC 5280). */
export function makeCertificate(directory: string, nowMs: number): TestCertificate {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const name = der(sequenceTag, der(setTag, der(sequenceTag, commonName, der(utf8Tag, Buffer.from('sallyport test')))));
  const hosts = der(sequenceTag, der(dnsName, Buffer.from('localhost')), der(ipAddress, Buffer.from([127, 0, 0, 1])));
  const extensions = der(
    sequenceTag,
    der(sequenceTag, basicConstraints, trueValue, der(octetStringTag, der(sequenceTag, trueValue))),
    der(sequenceTag, subjectAltName, der(octetStringTag, hosts)),
  );
  const halfDayMs = 12 * 3_600_000;
  const unsigned = der(
    sequenceTag,
    der(explicit0, der(integerTag, Buffer.from([2]))),
    der(integerTag, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    ecdsaWithSha256,
    name,
    der(sequenceTag, utcTime(new Date(nowMs - halfDayMs)), utcTime(new Date(nowMs + halfDayMs))),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    der(explicit3, extensions),
  );
  const signature = der(bitStringTag, Buffer.from([0]), sign('sha256', unsigned, privateKey));
  const body = der(sequenceTag, unsigned, ecdsaWithSha256, signature).toString('base64');
  const lines = body.match(/.{1,64}/g) ?? [];
  const certificate = ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n');
  const [certFile, keyFile] = [join(directory, 'tls.crt'), join(directory, 'tls.key')];
  writeFileSync(certFile, certificate);
  writeFileSync(keyFile, privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
  return { certFile, keyFile, certificate };
}
