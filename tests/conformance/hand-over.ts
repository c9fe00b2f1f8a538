/**
 * The client, as the official suite runs one: a program that is given the URL of the suite's server. It hands the URL and
 * the scenario's context to the process that runs the nodes, which drives a client through them, and waits for its end.
 */
const [, , driver = '', context = '', serverUrl = ''] = process.argv;
const answer = await fetch(driver, { method: 'POST', body: JSON.stringify({ serverUrl, context }) });
process.stderr.write(await answer.text());
process.exitCode = answer.ok ? 0 : 1;
