import { createPublicKey } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { parseArgs } from 'node:util';
import { describeVerification, verifyAuditExport } from './audit-verify.ts';
import { type Command, parsing, UsageError } from './command.ts';

export const auditCommand: Command = {
  summary: 'Check an export of the audit trail: audit verify',
  help: [
    'Usage: npx pnpm@12 sallyport audit verify <file> --fleet-key <key>',
    '',
    'Checks offline that an export of the audit trail is whole and unchanged: every chain of records, every checkpoint',
    'and its signature, and the end of the file. Exit code 0: it holds; 1: it does not, and what is wrong is printed.',
    '',
    '  <file>               The export; "-" reads it from standard input. It comes from the control plane:',
    '                       curl -H "Authorization: Bearer $ADMIN_TOKEN" \\',
    '                         "$CONTROL_PLANE/audit/export?from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z"',
    '',
    'Options',
    '  --fleet-key <key>    The public key of the fleet, base64, kept apart from the export: whoever could change the',
    '                       export could change a key in it as well. GraphQL: { configStatus { fleetPublicKey } }',
    '  --help               Show this',
    '',
  ].join('\n'),
  run: async (given, io) => {
    const { values, positionals } = parsing('audit', () =>
      parseArgs({ args: [...given], allowPositionals: true, options: { 'fleet-key': { type: 'string' } } }),
    );
    const [action, file, ...more] = positionals;
    const key = values['fleet-key'];
    if (action !== 'verify' || file === undefined || more.length > 0 || key === undefined) {
      throw new UsageError(
        'Say "npx pnpm@12 sallyport audit verify <file> --fleet-key <key>". ' +
          'See "npx pnpm@12 sallyport audit --help".',
      );
    }
    assertPublicKey(key);
    const result = await verifyAuditExport(file === '-' ? process.stdin : createReadStream(file), key);
    io.write(`${describeVerification(result)}\n`);
    return result.ok ? 0 : 1;
  },
};

function assertPublicKey(key: string): void {
  try {
    createPublicKey({ key: Buffer.from(key, 'base64'), format: 'der', type: 'spki' });
  } catch {
    throw new UsageError('--fleet-key is not a public key in base64, as { configStatus { fleetPublicKey } } shows it.');
  }
}
