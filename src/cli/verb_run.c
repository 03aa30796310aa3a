/* insula run: a VM from the command line's options. */
#include <stdlib.h>

#include "cli/run.h"
#include "cli/verb.h"

static int run_verb(const struct verb *self, int argc, char **argv)
{
	struct run *run = calloc(1, sizeof(*run));
	int status;

	if (!run)
		return STATUS_HOST_ERROR;
	run_init(run);
	status = run_options_parse(&run->options, self, argc, argv);
	if (status < 0)
		status = run_to_end(run);
	run_fini(run);
	free(run);
	return status;
}

const struct verb verb_run = {
	.name = "run",
	.arguments = "[GUEST] [OPTIONS] [-- COMMAND...]",
	.summary = "run a guest: its shell, one command in it, or a kernel of your own",
	.about = "A GUEST is a name known to insula guest (default debian). Without COMMAND its "
		 "shell\n"
		 "has the terminal; with it, stdin, stdout and stderr are the command's, and so is "
		 "the\n"
		 "exit status.\n\n"
		 "Ctrl-] then q quits. SIGTERM asks the guest to power off; a second one stops "
		 "it.\n\n"
		 "Exit status: 0 when the guest powers off or, with --no-reboot, resets; 1 when "
		 "the host\n"
		 "fails; 2 for a command line that makes no sense; 3 after a triple fault; "
		 "COMMAND's own;\n"
		 "with --debug-exit, (V << 1) | 1.\n\n"
		 "Examples:\n\n"
		 "  insula run                                   a shell in the default guest\n"
		 "  insula run -- uname -a                       one command\n"
		 "  tar c src | insula run -- tar x -C /tmp      bytes in and out\n"
		 "  insula run debian --disk data.img --mem 1G   with a disk: /dev/vda\n"
		 "  insula run --kernel bzImage --initrd initrd.gz --append console=ttyS0\n"
		 "  insula run --kernel memtest86+x64.bin --mem 64M --no-reboot\n",
	.options = run_option_defs,
	.run = run_verb,
};
