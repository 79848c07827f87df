"""nvcc with a cache for each of its passes: what is compiled for one architecture serves every list that has it.

It stands between ccache and nvcc, is started by path, with the standard library alone, as

    python -I -S -B passes.py NVCC ARGUMENT...

and does what ``nvcc --dryrun`` says that nvcc would do, pass by pass. Preprocessing is done each time, once for the host
and once for each architecture. What the other passes make depends on their preprocessed text, their options
and their programs, and is kept under a digest of these: so an edit that only one architecture sees compiles that one,
and an architecture that is added costs its own passes.

Two things make passes of different lists and folders the same:

- The host's object holds the device code, as numbers in a text that the host's compiler only hands on to the
  assembler. Here it is told to include a file instead (``.incbin``), so its assembly text is the same for any device code.
- nvcc derives names of internal symbols from the source's absolute path. Here it is the path below the tree.

CCCL's headers (thrust, cub; torch includes them) put their names into a namespace that is called after all
architectures: THRUST_300001_SM_1000_1200_NS. What is kept of one list is taken for another if the text differs in
nothing but this name, and only what does not hold it, in symbols or otherwise. A pass whose result holds it is done again.

Whatever does not look as it is known to look (another order of passes, debug information, relocatable device
code) is left to nvcc, and so is what fails: nvcc then says why.

Set for it: VLLM_BUILDER_PASSES, a folder for what is kept; VLLM_BUILDER_PASSES_TREE, VLLM_BUILDER_PASSES_LOG.
"""
